package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/config/pod/podtest"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/spec"
)

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, b *bench, uid types.UID) *cri.PodStatus {
	t.Helper()
	observed, err := cri.ReadPod(t.Context(), b.opts.CRI, uid, nil)
	if err != nil {
		t.Fatal(err)
	}
	return observed
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestRemovePod(t *testing.T) {
	b := newBench(t, nil)
	pod, other := podtest.Pod("c:a c:b", corev1.RestartPolicyAlways), podtest.Pod("c:a", corev1.RestartPolicyAlways)
	other.UID = "uid-2"
	b.mustSync(t, pod)
	b.mustSync(t, other)
	log := filepath.Join(spec.PodLogsDirectory(b.opts.Node.PodLogsDir, "ns", "pod", pod.UID), "a/0.log")
	touch(t, log)
	b.linkLog(t.Context(), pod, &pod.Spec.Containers[0], b.fake.ContainerID("b"), log)
	links, err := os.ReadDir(b.opts.ContainerLogsDir)
	if err != nil || len(links) != 1 {
		t.Fatal(links, err)
	}
	b.fake.FailNext("RemoveContainer", errors.New("busy"))
	if err := b.RemovePod(t.Context(), pod.UID); err == nil || !strings.Contains(err.Error(), "busy") || !exists(log) {
		t.Errorf("a failure is not an error: %v", err)
	}
	for range 2 {
		if err := b.RemovePod(t.Context(), pod.UID); err != nil {
			t.Fatal(err)
		}
	}
	b.want(t, pod, "")
	b.want(t, other, "box0 a/0:run")
	if exists(filepath.Dir(filepath.Dir(log))) {
		t.Error("logs are left")
	}
	if !exists(spec.PodLogsDirectory(b.opts.Node.PodLogsDir, "ns", "pod", other.UID)) {
		t.Error("another pod's logs are gone")
	}
	if err := b.RemoveCgroup(pod.UID); err != nil {
		t.Error(err)
	}
}

func TestGarbageCollect(t *testing.T) {
	b := newBench(t, nil)
	pod, gone := podtest.Pod("c:a c:b", corev1.RestartPolicyAlways), podtest.Pod("c:x", corev1.RestartPolicyNever)
	gone.UID = "uid-gone"
	b.mustSync(t, pod)
	b.mustSync(t, gone)
	b.fake.SetExit(b.fake.ContainerID("x"), 0)
	// Two ends of a, the second sandbox after the first died.
	b.fake.SetExit(b.fake.ContainerID("a"), 1)
	b.mustSync(t, pod)
	logs := spec.PodLogsDirectory(b.opts.Node.PodLogsDir, "ns", "pod", pod.UID)
	for _, name := range []string{"a/0.log", "a/0.log.20300101", "a/00.log", "a/1.log"} {
		touch(t, filepath.Join(logs, name))
	}
	b.fake.KillSandbox(b.fake.SandboxIDs()[0])
	b.crash.forget(pod.UID)
	if err := b.KillPod(t.Context(), gone, mustRead(t, b, gone.UID), nil); err != nil {
		t.Fatal(err)
	}
	_, err := b.sync(t, pod, inputs{})
	if err != nil {
		t.Fatal(err)
	}
	before := state(b.seen(pod))
	dead := filepath.Join(b.opts.ContainerLogsDir, "pod_ns_a-deadbeef.log")
	live := filepath.Join(b.opts.ContainerLogsDir, "pod_ns_b-"+b.seen(pod).Container("b").ID+".log")
	for _, link := range []string{dead, live} {
		if err := os.MkdirAll(b.opts.ContainerLogsDir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/nowhere", link); err != nil {
			t.Fatal(err)
		}
	}
	known := func(uid types.UID) bool { return uid == pod.UID }
	if err := b.GarbageCollect(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	after, err := cri.ReadPod(t.Context(), b.opts.CRI, pod.UID, nil)
	if err != nil {
		t.Fatal(err)
	}
	dropped := map[string]bool{}
	for word := range strings.FieldsSeq(before) {
		dropped[word] = !strings.Contains(state(after), word)
	}
	if !dropped["a/0:exit1"] || dropped["a/1:exit137"] || dropped["b/0:exit137"] {
		t.Errorf("before %q\nafter  %q", before, state(after))
	}
	b.want(t, gone, "")
	if exists(spec.PodLogsDirectory(b.opts.Node.PodLogsDir, "ns", "pod", gone.UID)) || exists(dead) {
		t.Error("the unknown pod's logs or the dead link are left")
	}
	if !exists(live) {
		t.Error("a running container's link is gone")
	}
	for name, want := range map[string]bool{"a/0.log": false, "a/0.log.20300101": false, "a/00.log": true, "a/1.log": true} {
		if exists(filepath.Join(logs, name)) != want {
			t.Errorf("%s left: %v", name, !want)
		}
	}
	if err := b.GarbageCollect(t.Context(), known); err != nil || state(after) != state(mustRead(t, b, pod.UID)) {
		t.Errorf("a second time: %v", err)
	}
}

// TestPodDirectories: what the kubelet keeps of a pod goes with it.
func TestPodDirectories(t *testing.T) {
	b := newBench(t, nil)
	pods := filepath.Join(b.opts.RootDir, "pods")
	for _, uid := range []string{"uid-1", "known"} {
		for _, file := range []string{"etc-hosts", "containers/a/00000000", "resources.json"} {
			touch(t, filepath.Join(pods, uid, file))
		}
	}
	if err := b.RemovePod(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
	if exists(filepath.Join(pods, "uid-1")) {
		t.Error("the directory of a removed pod is left")
	}
	if !exists(filepath.Join(pods, "known", "etc-hosts")) {
		t.Error("a known pod's file is gone")
	}
}

// TestDeleteUnusedContainers: ended pods lose everything but their log directory, running ones what is long dead.
func TestDeleteUnusedContainers(t *testing.T) {
	b := newBench(t, nil)
	pod, ended := podtest.Pod("c:a", corev1.RestartPolicyAlways), podtest.Pod("c:x", corev1.RestartPolicyNever)
	ended.UID = "uid-ended"
	b.mustSync(t, pod)
	b.mustSync(t, ended)
	log := filepath.Join(spec.PodLogsDirectory(b.opts.Node.PodLogsDir, "ns", "pod", ended.UID), "x/0.log")
	touch(t, log)
	b.fake.SetExit(b.fake.ContainerID("x"), 0)
	if err := b.KillPod(t.Context(), ended, mustRead(t, b, ended.UID), nil); err != nil {
		t.Fatal(err)
	}
	isEnded := func(uid types.UID) bool { return uid == ended.UID }
	b.fake.FailNext("ListContainers", errors.New("away"))
	if err := b.DeleteUnusedContainers(t.Context(), isEnded); err == nil || !strings.Contains(err.Error(), "away") {
		t.Errorf("the error is %v", err)
	}
	if err := b.DeleteUnusedContainers(t.Context(), isEnded); err != nil {
		t.Fatal(err)
	}
	b.want(t, ended, "")
	b.want(t, pod, "box0 a/0:run")
	if exists(log) || !exists(filepath.Dir(log)) {
		t.Errorf("log left: %v, its directory: %v", exists(log), exists(filepath.Dir(log)))
	}
}

// TestGarbageBesideNeverStarted: an instance that was created and never started is removed by the pod's worker, so it is not the
// one that is kept of a container. Its predecessor holds the number of restarts.
func TestGarbageBesideNeverStarted(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	b.mustSync(t, pod)
	b.fake.SetExit(b.fake.ContainerID("a"), 3)
	b.fake.FailNext("StartContainer", errors.New("cut"))
	if _, err := b.sync(t, pod, inputs{}); err == nil {
		t.Fatal("the start did not fail")
	}
	b.want(t, pod, "box0 a/0:exit3 a/1:new")
	if err := b.GarbageCollect(t.Context(), func(types.UID) bool { return true }); err != nil {
		t.Fatal(err)
	}
	b.fake.FailNext("CreateContainer", errors.New("cut"))
	if _, err := b.sync(t, pod, inputs{}); err == nil {
		t.Fatal("the creation did not fail")
	}
	b.mustSync(t, pod)
	b.want(t, pod, "box0 a/0:exit3 a/1:run")
}
