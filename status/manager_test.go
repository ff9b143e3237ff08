package status

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	podinfo "minikubelet/config/pod"
)

// server counts what the manager asks of the apiserver.
type server struct {
	*fake.Clientset
	mu      sync.Mutex
	patches []string
	deletes []metav1.DeleteOptions
	fail    []error // for the next patches
	changed chan struct{}
}

func newServer(t *testing.T, pods ...runtime.Object) *server {
	t.Helper()
	s := &server{Clientset: fake.NewClientset(pods...), changed: make(chan struct{}, 100)}
	s.PrependReactor("patch", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		defer func() { s.changed <- struct{}{} }()
		if len(s.fail) > 0 {
			err := s.fail[0]
			s.fail = s.fail[1:]
			return true, nil, err
		}
		s.patches = append(s.patches, string(a.(clienttesting.PatchAction).GetPatch()))
		return false, nil, nil
	})
	s.PrependReactor("delete", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.deletes = append(s.deletes, a.(clienttesting.DeleteActionImpl).DeleteOptions)
		s.changed <- struct{}{}
		return true, nil, nil
	})
	return s
}

func (s *server) wait(t *testing.T) {
	t.Helper()
	select {
	case <-s.changed:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was asked of the apiserver")
	}
}

func (s *server) quiet(t *testing.T) {
	t.Helper()
	select {
	case <-s.changed:
		s.mu.Lock()
		defer s.mu.Unlock()
		t.Fatalf("something was asked of the apiserver: %q, %v", s.patches, s.deletes)
	case <-time.After(2 * longestWait):
	}
}

func podsOf(client kubernetes.Interface) func(string) PodClient {
	return func(namespace string) PodClient { return client.CoreV1().Pods(namespace) }
}

func start(t *testing.T, s *server) *Manager {
	t.Helper()
	return startWith(t, Options{Pods: podsOf(s), Workers: 2})
}

func startWith(t *testing.T, o Options) *Manager {
	t.Helper()
	m := New(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { m.Run(ctx); close(done) }()
	t.Cleanup(func() {
		cancel()
		<-done
		goleak.VerifyNone(t, goleak.IgnoreCurrent())
	})
	return m
}

func apiPod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", ResourceVersion: "5"}}
}

func TestOnePatch(t *testing.T) {
	s := newServer(t, apiPod())
	m := start(t, s)
	m.Set(apiPod(), corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"})
	s.wait(t)
	m.Set(apiPod(), corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"})
	s.quiet(t)
	var patch struct {
		Metadata struct{ UID string }
		Status   corev1.PodStatus
	}
	if err := json.Unmarshal([]byte(s.patches[0]), &patch); err != nil {
		t.Fatal(err)
	}
	if len(s.patches) != 1 || patch.Metadata.UID != "u" || patch.Status.PodIP != "10.0.0.1" {
		t.Errorf("patches: %q", s.patches)
	}
	for _, a := range s.Actions() {
		if a.GetVerb() == "get" {
			t.Error("the pod was read before it was written")
		}
	}
}

// TestFirstStatusWaits: what only says that the pod was seen is written with what comes soon after.
func TestFirstStatusWaits(t *testing.T) {
	s := newServer(t, apiPod())
	m := start(t, s)
	waiting := corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}}}
	m.Set(apiPod(), waiting)
	m.Set(apiPod(), corev1.PodStatus{Phase: corev1.PodRunning})
	s.wait(t)
	s.quiet(t)
	if len(s.patches) != 1 || !strings.Contains(s.patches[0], "Running") {
		t.Errorf("patches: %q", s.patches)
	}
}

// TestGenerationWaits: a pod that is deleted has a new generation, which is written with its end if that comes soon.
func TestGenerationWaits(t *testing.T) {
	s := newServer(t, apiPod())
	m := start(t, s)
	m.Set(apiPod(), corev1.PodStatus{Phase: corev1.PodRunning, ObservedGeneration: 1})
	s.wait(t)
	deleted := apiPod()
	deleted.DeletionTimestamp = new(metav1.Now())
	m.Set(deleted, corev1.PodStatus{Phase: corev1.PodRunning, ObservedGeneration: 2})
	m.Set(deleted, corev1.PodStatus{Phase: corev1.PodSucceeded, ObservedGeneration: 2})
	s.wait(t)
	s.quiet(t)
	if len(s.patches) != 2 || !strings.Contains(s.patches[1], "Succeeded") {
		t.Errorf("patches: %q", s.patches)
	}
	m.Set(deleted, corev1.PodStatus{Phase: corev1.PodSucceeded, ObservedGeneration: 3})
	s.wait(t) // it is not lost if nothing else comes
}

func TestRetry(t *testing.T) {
	s := newServer(t, apiPod())
	s.fail = []error{errors.New("away"), errors.New("still away")}
	m := start(t, s)
	m.Set(apiPod(), corev1.PodStatus{Phase: corev1.PodRunning})
	for range 3 {
		s.wait(t)
	}
	if len(s.patches) != 1 {
		t.Errorf("patches: %q", s.patches)
	}
}

// TestGone: a pod that is not there, or whose name another pod has by now, is not written again.
func TestGone(t *testing.T) {
	otherUID := field.ErrorList{field.Invalid(field.NewPath("metadata", "uid"), "u", "field is immutable")}
	for name, err := range map[string]error{
		"no such pod": apierrors.NewNotFound(corev1.Resource("pods"), "p"),
		"another UID": apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Pod").GroupKind(), "p", otherUID),
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.fail = []error{err}
			m := start(t, s)
			m.Set(apiPod(), corev1.PodStatus{Phase: corev1.PodRunning})
			s.wait(t)
			m.Set(apiPod(), corev1.PodStatus{Phase: corev1.PodFailed})
			s.quiet(t)
		})
	}
}

// TestConflict: someone else wrote at the same moment; the write is tried again.
func TestConflict(t *testing.T) {
	s := newServer(t, apiPod())
	s.fail = []error{apierrors.NewConflict(corev1.Resource("pods"), "p", errors.New("the object has been modified"))}
	m := start(t, s)
	m.Set(apiPod(), corev1.PodStatus{Phase: corev1.PodRunning})
	s.wait(t)
	s.wait(t)
	if len(s.patches) != 1 {
		t.Errorf("patches: %q", s.patches)
	}
}

// TestFinish: a finished pod's object is deleted after its last status, and once however often the pod is looked at again.
func TestFinish(t *testing.T) {
	s := newServer(t, apiPod())
	m := start(t, s)
	m.Set(apiPod(), corev1.PodStatus{Phase: corev1.PodFailed})
	m.Finish(apiPod())
	s.wait(t)
	s.wait(t)
	m.Finish(apiPod())
	s.quiet(t)
	if len(s.deletes) != 1 || *s.deletes[0].GracePeriodSeconds != 0 || string(*s.deletes[0].Preconditions.UID) != "u" {
		t.Errorf("deletes: %+v", s.deletes)
	}
	if len(s.patches) != 1 {
		t.Errorf("the last status was written %d times", len(s.patches))
	}
}

// TestReconcile: what someone else changed is written again; what is older than the last write is not believed.
func TestReconcile(t *testing.T) {
	s := newServer(t, apiPod())
	m := start(t, s)
	m.Set(apiPod(), corev1.PodStatus{Phase: corev1.PodRunning})
	s.wait(t)
	older := apiPod()
	older.ResourceVersion = "4"
	m.Reconcile(older)
	s.quiet(t)
	changed := apiPod()
	changed.ResourceVersion, changed.Status.Phase = "99", corev1.PodPending
	m.Reconcile(changed)
	s.wait(t)
	if len(s.patches) != 2 || !strings.Contains(s.patches[1], "Running") {
		t.Errorf("patches: %q", s.patches)
	}
}

// TestForeignConditions: conditions of others are neither written nor removed.
func TestForeignConditions(t *testing.T) {
	p := apiPod()
	p.Status.Conditions = []corev1.PodCondition{{Type: "theirs", Status: corev1.ConditionTrue}}
	body, err := difference(apiObject{uid: "u", status: p.Status}, corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: "theirs", Status: corev1.ConditionFalse}}})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(body), "delete") || strings.Contains(string(body), `"False"`) {
		t.Errorf("patch: %s", body)
	}
}

// TestStaticPods: the status of a static pod goes to its mirror, once there is one.
func TestStaticPods(t *testing.T) {
	mirror := apiPod()
	mirror.UID = "mirror"
	s := newServer(t, mirror)
	m := start(t, s)
	static := apiPod()
	static.UID, static.Annotations = "static", map[string]string{podinfo.SourceAnnotation: "file"}
	m.Set(static, corev1.PodStatus{Phase: corev1.PodRunning})
	s.quiet(t)
	m.SetMirror("static", mirror)
	s.wait(t)
	if !strings.Contains(s.patches[0], `"uid":"mirror"`) {
		t.Errorf("patches: %q", s.patches)
	}
}

func TestMirror(t *testing.T) {
	static := apiPod()
	static.Annotations = map[string]string{podinfo.SourceAnnotation: "file", podinfo.HashAnnotation: "h1"}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "node-uid"}}
	client := fake.NewClientset()
	var existing *corev1.Pod
	m := NewMirror(MirrorOptions{Pods: podsOf(client), Node: func() *corev1.Node { return node }, Existing: func(*corev1.Pod) *corev1.Pod { return existing }})
	if err := m.Ensure(t.Context(), static); err != nil {
		t.Fatal(err)
	}
	made, err := client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if made.Annotations[podinfo.MirrorAnnotation] != "h1" || len(made.OwnerReferences) != 1 || made.OwnerReferences[0].UID != "node-uid" || !*made.OwnerReferences[0].Controller {
		t.Errorf("the mirror: %+v", made.ObjectMeta)
	}
	if err := m.Ensure(t.Context(), static); err != nil { // the watch has not told of it yet
		t.Errorf("a mirror that is there already: %v", err)
	}
	existing = made
	changed := static.DeepCopy()
	changed.Annotations[podinfo.HashAnnotation] = "h2"
	if err := m.Ensure(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if made, err = client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{}); err != nil || made.Annotations[podinfo.MirrorAnnotation] != "h2" {
		t.Errorf("the mirror of a changed pod: %v, %v", made.Annotations, err)
	}
	if err := m.Delete(t.Context(), made); err != nil {
		t.Error(err)
	}
	if err := m.Delete(t.Context(), made); err != nil {
		t.Errorf("deleting what is gone: %v", err)
	}
	existing, node = nil, &corev1.Node{}
	if err := m.Ensure(t.Context(), static); err == nil {
		t.Error("a mirror is made before the node is registered")
	}
}

// TestMirrorOfEarlierNode: a mirror that belongs to a node which is no more is made again for the one there is, whether
// the watch has told of it or not.
func TestMirrorOfEarlierNode(t *testing.T) {
	static := apiPod()
	static.Annotations = map[string]string{podinfo.SourceAnnotation: "file", podinfo.HashAnnotation: "h1"}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "first"}}
	client := fake.NewClientset()
	var existing *corev1.Pod
	m := NewMirror(MirrorOptions{Pods: podsOf(client), Node: func() *corev1.Node { return node }, Existing: func(*corev1.Pod) *corev1.Pod { return existing }})
	owner := func() types.UID {
		t.Helper()
		if err := m.Ensure(t.Context(), static); err != nil {
			t.Fatal(err)
		}
		have, err := client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		existing = have
		return have.OwnerReferences[0].UID
	}
	for _, uid := range []types.UID{"first", "second", "", "second"} {
		want := uid
		if uid == "" { // not registered
			want = "second"
		}
		node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: uid}}
		if got := owner(); got != want {
			t.Errorf("with node %q the mirror belongs to %q", uid, got)
		}
	}
	node, existing = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "third"}}, nil
	if got := owner(); got != "third" {
		t.Errorf("a mirror that the watch has not told of belongs to %q", got)
	}
}
