package allocation

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func cpu(amount string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(amount)}}
}

// podOf has an init container i and a container c.
func podOf(i, c string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u", Generation: 1},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "i", Resources: cpu(i)}},
			Containers:     []corev1.Container{{Name: "c", Resources: cpu(c)}},
		},
	}
}

func withPod(pod *corev1.Pod, amount string) *corev1.Pod {
	pod.Spec.Resources = new(cpu(amount))
	return pod
}

func asks(pod *corev1.Pod) string {
	out := pod.Spec.InitContainers[0].Resources.Requests.Cpu().String() + " " + pod.Spec.Containers[0].Resources.Requests.Cpu().String()
	if pod.Spec.Resources != nil {
		out += " pod " + pod.Spec.Resources.Requests.Cpu().String()
	}
	return out
}

// TestAllocate: a pod has what it was given last, whatever its spec says, over a restart too.
func TestAllocate(t *testing.T) {
	dir := t.TempDir()
	s := New(dir)
	if _, differs := s.Allocated(podOf("1", "2")); differs {
		t.Error("a pod never seen has something else than it asks for")
	}
	must(t, s.Allocate(podOf("1", "2")))
	if _, lags := s.Actuated("u"); lags {
		t.Error("a new pod lags behind its allocation")
	}
	must(t, s.Save(t.Context(), "u"))
	wanted := withPod(podOf("1", "3"), "5")
	for _, s := range []*Store{s, New(dir)} {
		if _, err := s.Recall(wanted); err != nil {
			t.Fatal(err)
		}
		got, differs := s.Allocated(wanted)
		if !differs || asks(got) != "1 2" || asks(wanted) != "1 3 pod 5" {
			t.Errorf("the pod has %q (differs: %v), its spec %q", asks(got), differs, asks(wanted))
		}
	}
	must(t, s.Allocate(wanted))
	must(t, s.Save(t.Context(), "u"))
	if got, differs := s.Allocated(wanted); differs || asks(got) != "1 3 pod 5" {
		t.Errorf("after the resize the pod has %q", asks(got))
	}
	files, err := filepath.Glob(filepath.Join(dir, "u", "*"))
	if err != nil || len(files) != 1 {
		t.Errorf("files %v, %v", files, err)
	}
	s.Forget("u")
	if _, differs := s.Allocated(podOf("9", "9")); differs {
		t.Error("a forgotten pod has something")
	}
}

// TestActuated: what was not told to the runtime yet lags, and what was said last about it counts.
func TestActuated(t *testing.T) {
	dir := t.TempDir()
	s := New(dir)
	must(t, s.Allocate(podOf("1", "2")))
	must(t, s.Allocate(withPod(podOf("1", "3"), "5")))
	want := func(step string, r Resources) {
		t.Helper()
		got, lags := s.Actuated("u")
		if lags == r.empty() || !r.empty() && !cmp.Equal(got, r) {
			t.Errorf("%s: lagging %v, want %v", step, got, r)
		}
	}
	lagging := Resources{Pod: &corev1.ResourceRequirements{}, Containers: map[string]corev1.ResourceRequirements{"c": cpu("2")}}
	want("resized", lagging)

	must(t, s.SetContainerActuated(t.Context(), "u", "c", cpu("2500m")))
	lagging.Containers["c"] = cpu("2500m")
	want("half way", lagging)

	must(t, s.Allocate(withPod(podOf("1", "4"), "5")))
	must(t, s.Save(t.Context(), "u"))
	want("resized again", lagging)
	s = New(dir)
	if _, err := s.Recall(podOf("1", "4")); err != nil {
		t.Fatal(err)
	}
	want("restarted", lagging)

	must(t, s.SetContainerActuated(t.Context(), "u", "c", cpu("4")))
	delete(lagging.Containers, "c")
	want("the container is done", lagging)
	must(t, s.SetContainerActuated(t.Context(), "u", "none", cpu("4")))
	want("no container", lagging)

	// The pod was allocated more while its worker finished an earlier resize.
	must(t, s.Allocate(withPod(podOf("1", "6"), "5")))
	must(t, s.SetActuated(t.Context(), withPod(podOf("1", "4"), "5")))
	want("late", Resources{Containers: map[string]corev1.ResourceRequirements{"c": cpu("4")}})
	must(t, s.SetActuated(t.Context(), withPod(podOf("1", "6"), "5")))
	want("done", Resources{})
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "u"), 0o750))
	must(t, os.WriteFile(filepath.Join(dir, "u", file), []byte(`{"allocated":`), 0o600))
	s := New(dir)
	pod, err := s.Recall(podOf("1", "2"))
	if err == nil || asks(pod) != "1 2" {
		t.Errorf("%q, %v", asks(pod), err)
	}
	must(t, s.Allocate(pod))
	must(t, s.Save(t.Context(), "u"))
	for _, uid := range []types.UID{"", "../u", "/etc"} {
		bad := podOf("1", "2")
		bad.UID = uid
		if err := s.Allocate(bad); err == nil {
			t.Errorf("UID %q is written", uid)
		}
	}
}

// TestConditions: of the two conditions one says what waits, the other what is under way, each with the version it is about.
func TestConditions(t *testing.T) {
	s := New("")
	pod := podOf("1", "2")
	if s.Pend(pod, corev1.PodReasonDeferred, "x") || s.Conditions("u") != nil {
		t.Error("a pod never seen has a condition")
	}
	must(t, s.Allocate(pod))
	pod = podOf("1", "3")
	pod.Generation = 2
	for i, want := range []bool{true, false} {
		if got := s.Pend(pod, corev1.PodReasonDeferred, "full"); got != want {
			t.Errorf("time %d: news %v", i, got)
		}
	}
	pod.Generation = 3
	if !s.Pend(pod, corev1.PodReasonDeferred, "full") {
		t.Error("another version is no news")
	}
	wantConditions(t, s, "PodResizePending Deferred full 3")
	must(t, s.Allocate(pod))
	s.Begin(pod)
	wantConditions(t, s, "PodResizeInProgress   3")
	pod.Generation = 4
	if generation, news := s.Progress(pod, "", ""); generation != 3 || news {
		t.Errorf("generation %d, news %v", generation, news)
	}
	for i, want := range []bool{true, false} {
		if generation, news := s.Progress(pod, corev1.PodReasonError, "no"); generation != 3 || news != want {
			t.Errorf("failure %d: generation %d, news %v", i, generation, news)
		}
	}
	wantConditions(t, s, "PodResizeInProgress Error no 3")
	if _, was := s.Done("u"); was {
		t.Error("done while the container lags")
	}
	must(t, s.SetActuated(t.Context(), pod))
	if generation, was := s.Done("u"); generation != 3 || !was {
		t.Errorf("done: generation %d, %v", generation, was)
	}
	if _, was := s.Done("u"); was || len(s.Conditions("u")) != 0 {
		t.Error("done twice")
	}
	s.Pend(pod, corev1.PodReasonDeferred, "full")
	if !s.Unpend("u") || s.Unpend("u") {
		t.Error("a pod that waits no more")
	}
}

func wantConditions(t *testing.T, s *Store, want string) {
	t.Helper()
	var got []string
	for _, c := range s.Conditions("u") {
		got = append(got, strings.Join([]string{string(c.Type), c.Reason, c.Message, resource.NewQuantity(c.ObservedGeneration, resource.DecimalSI).String()}, " "))
	}
	if joined := strings.Join(got, "; "); joined != want {
		t.Errorf("conditions %q, want %q", joined, want)
	}
}

// TestBackfill: conditions outlive the kubelet in the pod's status.
func TestBackfill(t *testing.T) {
	dir := t.TempDir()
	before := New(dir)
	must(t, before.Allocate(podOf("1", "2")))
	must(t, before.Save(t.Context(), "u"))
	pod := podOf("1", "3")
	pod.Status.Conditions = []corev1.PodCondition{
		{Type: corev1.PodReady}, {Type: corev1.PodResizePending, Reason: "Deferred", Message: "full", ObservedGeneration: 7},
	}
	s := New(dir)
	if _, err := s.Recall(pod); err != nil {
		t.Fatal(err)
	}
	wantConditions(t, s, "PodResizePending Deferred full 7")
}

func TestMessage(t *testing.T) {
	got := Message("Pod resize started", podOf("1", "2"), 3, "")
	want := `Pod resize started: {"initContainers":[{"name":"i","resources":{"requests":{"cpu":"1"}}}],` +
		`"containers":[{"name":"c","resources":{"requests":{"cpu":"2"}}}],"generation":3}`
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
