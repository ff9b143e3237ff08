package e2e

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// evicted waits until the pod was evicted, and checks that its end is told as upstream tells it.
func evicted(ctx testContext, t *testing.T, pod *corev1.Pod, message string) *corev1.Pod {
	t.Helper()
	p := phase(ctx, t, pod, corev1.PodFailed)
	if p.Status.Reason != "Evicted" || !regexp.MustCompile("^"+message+"$").MatchString(p.Status.Message) {
		t.Errorf("%s ended with %s: %q, want Evicted: %q", p.Name, p.Status.Reason, p.Status.Message, message)
	}
	if got := event(ctx, t, p.Name, "Evicted"); got != p.Status.Message {
		t.Errorf("the event is %q, the status %q", got, p.Status.Message)
	}
	cause := "EvictedOwnLimit"
	if strings.HasPrefix(message, "The node was low") {
		cause = "Evicted"
	}
	told(ctx, t, p.Name, cause)
	return p
}

func disrupted(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.DisruptionTarget {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// TestStorageLimits: pods that keep more on the node's disk than they may are ended, their neighbours not.
func TestStorageLimits(t *testing.T) {
	ctx, s := node(t)
	const hungry = "dd if=/dev/zero of=%s bs=1M count=5 && sleep 3600"
	volume := newPod(t)
	volume.Spec.Containers = []corev1.Container{shell("app", fmt.Sprintf(hungry, "/data/x"))}
	volume.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	volume.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: new(resource.MustParse("2Mi"))}}}}
	limited := func(script string) *corev1.Pod {
		pod := newPod(t)
		pod.Spec.Containers = []corev1.Container{shell("app", script), shell("other", "sleep 3600")}
		for i := range pod.Spec.Containers {
			pod.Spec.Containers[i].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("2Mi")}
		}
		return pod
	}
	layer := limited(fmt.Sprintf(hungry, "/x"))
	output := limited("yes " + strings.Repeat("0123456789", 30) + " | head -c 2500000; sleep 3600")
	modest := limited("dd if=/dev/zero of=/x bs=1k count=500 && sleep 3600")
	for _, pod := range []*corev1.Pod{volume, layer, output, modest} {
		create(ctx, t, pod)
	}
	gone := evicted(ctx, t, volume, `Usage of EmptyDir volume "data" exceeds the limit "2Mi"\. `)
	if disrupted(gone) != nil {
		t.Error("who exceeds its own limit is no target of a disruption")
	}
	evicted(ctx, t, layer, "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. ")
	evicted(ctx, t, output, `Container app exceeded its local ephemeral storage limit "2Mi"\. `)
	eventually(ctx, t, "the evicted pod's volume is removed", func() bool {
		_, err := os.Stat(filepath.Join(s.RootDir(), "pods", string(gone.UID), "volumes/kubernetes.io~empty-dir/data"))
		return os.IsNotExist(err)
	})
	if p := phase(ctx, t, modest, corev1.PodRunning); p.Status.Reason != "" {
		t.Errorf("the modest pod: %s", p.Status.Reason)
	}
}

// TestLogRotation: a chatty container's log is rotated and compressed, and nothing of it is lost between.
func TestLogRotation(t *testing.T) {
	ctx, s := nodeWith(t, stack.KubeletOptions{Config: map[string]any{
		"containerLogMaxSize": "20Ki", "containerLogMaxFiles": 4, "containerLogMonitorInterval": "3s",
	}})
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{shell("app", "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.005; done")}
	pod = ready(ctx, t, pod)
	dir := fmt.Sprintf("%s/%s_%s_%s/app", s.PodLogsDir(), pod.Namespace, pod.Name, pod.UID)
	files := func() (names []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	want := regexp.MustCompile(`^0\.log 0\.log\.\d{8}-\d{6}\.gz 0\.log\.\d{8}-\d{6}\.gz 0\.log\.\d{8}-\d{6}$`)
	eventually(ctx, t, "four files, two of them compressed", func() bool { return want.MatchString(strings.Join(files(), " ")) })
	stopKubelet(t) // the container goes on and nobody rotates
	names := files()
	var text strings.Builder
	for _, name := range append(names[1:], names[0]) { // the oldest first, 0.log last
		text.WriteString(readLog(t, filepath.Join(dir, name)))
	}
	last := 0
	for line := range strings.Lines(text.String()) {
		var n int
		_, after, _ := strings.Cut(line, " line ")
		if _, err := fmt.Sscan(after, &n); err != nil {
			continue // the runtime is in the middle of it
		}
		if last > 0 && n != last+1 {
			t.Fatalf("line %d is followed by %d", last, n)
		}
		last = n
	}
	if last < 100 {
		t.Errorf("the last line is %d", last)
	}
}

func readLog(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var from io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if from, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	data, err := io.ReadAll(from)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// hasImage asks the runtime.
func hasImage(ctx testContext, t *testing.T, name string) bool {
	t.Helper()
	answer, err := runtimeapi.NewImageServiceClient(shared.CRI).ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetImage() != nil
}

// TestImageCollection: when the disk is above the threshold, a pull has unused images removed; those in use and the
// sandboxes' stay.
func TestImageCollection(t *testing.T) {
	ctx, s := nodeWith(t, stack.KubeletOptions{Config: map[string]any{
		"imageGCHighThresholdPercent": 1, "imageGCLowThresholdPercent": 0, "imageMinimumGCAge": "1s",
	}})
	first := ready(ctx, t, newPod(t)) // testapp
	second := newPod(t)
	second.Spec.Containers = []corev1.Container{shell("app", "sleep 3600")}
	second = ready(ctx, t, second)
	if !hasImage(ctx, t, stack.TestappImage) || !hasImage(ctx, t, stack.BusyboxImage) {
		t.Fatal("an image in use is gone")
	}
	remove(ctx, t, second)
	image, err := stack.BuildImage(nil, v1Config())
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; hasImage(ctx, t, stack.BusyboxImage); i++ {
		if ctx.Err() != nil {
			t.Fatal("the unused image is still there")
		}
		name := fmt.Sprintf("collect-%d:1", i)
		if err := s.Registry.Push(ctx, name, image); err != nil {
			t.Fatal(err)
		}
		puller := newPod(t)
		puller.Spec.Containers[0].Image, puller.Spec.RestartPolicy = name, corev1.RestartPolicyNever
		create(ctx, t, puller)
		event(ctx, t, puller.Name, "Pulled")
	}
	if !hasImage(ctx, t, stack.TestappImage) {
		t.Error("the image of a running pod is gone")
	}
	if event(ctx, t, s.NodeName, "FreeDiskSpaceFailed") == "" {
		t.Error("no event says that it was not enough")
	}
	if _, err := s.WaitPodReady(ctx, first.Namespace, first.Name); err != nil {
		t.Error(err)
	}
	ready(ctx, t, newPod(t)) // sandboxes can still be made
}

// nodeCondition waits until the node reports a condition.
func nodeCondition(ctx testContext, t *testing.T, kind corev1.NodeConditionType, want corev1.ConditionStatus) {
	t.Helper()
	eventually(ctx, t, fmt.Sprintf("the node's %s is %s", kind, want), func() bool {
		n, err := shared.Client.CoreV1().Nodes().Get(ctx, shared.NodeName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range n.Status.Conditions {
			if c.Type == kind {
				return c.Status == want
			}
		}
		return false
	})
}

// TestMemoryPressure: a node that is short of memory says so, ends pods that use more than they request first, takes in
// no more of those that request none, and is well again when the shortage is over.
func TestMemoryPressure(t *testing.T) {
	ctx, _ := node(t)
	greedy, modest := newPod(t), newPod(t)
	modest.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("200Mi")}
	greedy, modest = ready(ctx, t, greedy), ready(ctx, t, modest)
	stopKubelet(t)
	ctx, s := nodeWith(t, stack.KubeletOptions{Config: map[string]any{
		"evictionHard": map[string]string{"memory.available": "99%"}, "evictionPressureTransitionPeriod": "5s", "enforceNodeAllocatable": []string{"none"},
	}})
	t.Cleanup(func() { stopKubelet(t) })
	p := evicted(ctx, t, greedy, `The node was low on resource: memory\. Threshold quantity: \d+(Ki)?, available: \d+(Ki)?\. `+
		`Container app was using \d+(Ki|Mi), request is 0, has larger consumption of memory\. `)
	first := disrupted(p)
	if first == nil || first.Status != corev1.ConditionTrue || first.Reason != "TerminationByKubelet" || first.Message != p.Status.Message {
		t.Fatalf("the condition is %v", first)
	}
	// The shortage goes on, so that the pod within its request may be next.
	next := disrupted(until(ctx, t, modest, "there", func(*corev1.Pod) bool { return true }))
	if next != nil && next.LastTransitionTime.Before(&first.LastTransitionTime) {
		t.Errorf("the pod within its request was ended at %s, the greedy one at %s", next.LastTransitionTime, first.LastTransitionTime)
	}
	nodeCondition(ctx, t, corev1.NodeMemoryPressure, corev1.ConditionTrue)
	event(ctx, t, s.NodeName, "EvictionThresholdMet")
	late := newPod(t)
	create(ctx, t, late)
	if p := phase(ctx, t, late, corev1.PodFailed); p.Status.Reason != "Evicted" || p.Status.Message != "Pod was rejected: The node had condition: [MemoryPressure]. " {
		t.Errorf("a pod that comes late: %s: %q", p.Status.Reason, p.Status.Message)
	}
	remove(ctx, t, modest)
}

// TestDiskPressure: a node that is short of disk removes unused images, and ended pods' containers, before it ends pods.
func TestDiskPressure(t *testing.T) {
	ctx, _ := node(t)
	ended := newPod(t)
	ended.Spec.RestartPolicy, ended.Spec.Containers = corev1.RestartPolicyNever, []corev1.Container{shell("app", "true")}
	ended = create(ctx, t, ended)
	phase(ctx, t, ended, corev1.PodSucceeded)
	stopKubelet(t)
	ctx, s := nodeWith(t, stack.KubeletOptions{Config: map[string]any{
		"evictionHard": map[string]string{"imagefs.available": "99.99%"}, "imageMinimumGCAge": "1s",
	}})
	t.Cleanup(func() { stopKubelet(t) })
	nodeCondition(ctx, t, corev1.NodeDiskPressure, corev1.ConditionTrue)
	if got := event(ctx, t, s.NodeName, "EvictionThresholdMet"); !strings.HasPrefix(got, "Attempting to reclaim ") {
		t.Errorf("the event is %q", got)
	}
	eventually(ctx, t, "the unused image is gone", func() bool { return !hasImage(ctx, t, stack.BusyboxImage) })
	eventually(ctx, t, "the ended pod's containers are gone", func() bool {
		list, err := runtimeapi.NewRuntimeServiceClient(s.CRI).ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
			LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(ended.UID)},
		}})
		return err == nil && len(list.GetContainers()) == 0
	})
	if p := phase(ctx, t, ended, corev1.PodSucceeded); p.Status.ContainerStatuses[0].State.Terminated == nil || p.Status.ContainerStatuses[0].State.Terminated.ExitCode != 0 {
		t.Errorf("the ended pod's status: %v", p.Status.ContainerStatuses)
	}
}

// TestPodDirectories: a pod's directory goes with it, and so does that of a pod which went while no kubelet ran.
func TestPodDirectories(t *testing.T) {
	ctx, s := node(t)
	pod := ready(ctx, t, newPod(t))
	dir := filepath.Join(s.RootDir(), "pods", string(pod.UID))
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	remove(ctx, t, pod)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory of a pod that is gone: %v", err)
	}
	stopKubelet(t)
	orphan := filepath.Join(s.RootDir(), "pods/00000000-0000-0000-0000-000000000000/volumes/kubernetes.io~empty-dir/v")
	if err := os.MkdirAll(orphan, 0o755); err != nil {
		t.Fatal(err)
	}
	startKubelet(ctx, t, stack.KubeletOptions{})
	eventually(ctx, t, "the orphan's directory is removed", func() bool {
		entries, err := os.ReadDir(filepath.Join(s.RootDir(), "pods"))
		return err == nil && !strings.Contains(fmt.Sprint(entries), "00000000-0000")
	})
}
