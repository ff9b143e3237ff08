package runtime

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/config/pod/podtest"
	"minikubelet/e2e/crifake"
	"minikubelet/runtime/cri"
)

// reboot leaves what a machine finds after it went down: sandboxes that are not ready, containers that have exited or
// of which the runtime knows no more.
func (b *bench) reboot(state runtimeapi.ContainerState) {
	for _, id := range b.fake.SandboxIDs() {
		b.fake.CorruptSandbox(id, func(s *runtimeapi.PodSandboxStatus) { s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY })
	}
	for _, name := range []string{"a", "b"} {
		b.fake.Corrupt(b.fake.ContainerID(name), func(c *runtimeapi.ContainerStatus) { c.State = state })
	}
}

// TestKillPodAfterReboot: a sandbox that is not ready is stopped once, since it holds addresses and ports until then, and
// so are containers that may be running.
func TestKillPodAfterReboot(t *testing.T) {
	for _, tc := range []struct {
		name       string
		left       runtimeapi.ContainerState
		containers int
	}{{"exited", cri.Exited, 0}, {"unknown", cri.Unknown, 2}, {"that this kubelet does not know", 99, 2}} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, nil)
			pod := podtest.Pod("c:a c:b", corev1.RestartPolicyNever)
			b.mustSync(t, pod)
			b.reboot(tc.left)
			observed := mustRead(t, b, pod.UID)
			if b.Ended(observed) {
				t.Fatalf("%q counts as ended", state(observed))
			}
			for range 2 {
				if err := b.KillPod(t.Context(), pod, observed, nil); err != nil {
					t.Fatal(err)
				}
				observed = mustRead(t, b, pod.UID)
				if !b.Ended(observed) {
					t.Errorf("%q does not count as ended", state(observed))
				}
			}
			if n := b.fake.Count("StopPodSandbox"); n != 1 {
				t.Errorf("the sandbox was stopped %d times", n)
			}
			if n := len(crifake.Requests[*runtimeapi.StopContainerRequest](b.fake)); n != tc.containers {
				t.Errorf("%d containers were stopped, want %d", n, tc.containers)
			}
		})
	}
}

// TestSyncPodAfterReboot: a pod that is not to be restarted gives back what its sandbox holds, once.
func TestSyncPodAfterReboot(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a c:b", corev1.RestartPolicyNever)
	b.mustSync(t, pod)
	b.reboot(cri.Exited)
	for range 2 {
		b.mustSync(t, pod)
	}
	if n := b.fake.Count("StopPodSandbox"); n != 1 {
		t.Errorf("the sandbox was stopped %d times", n)
	}
}

// TestGarbageAfterClockSetBack: the newest attempt is kept although it was made earlier by the clock.
func TestGarbageAfterClockSetBack(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a c:b", corev1.RestartPolicyAlways)
	b.mustSync(t, pod)
	first := b.fake.ContainerID("a")
	b.fake.SetExit(first, 1)
	b.mustSync(t, pod)
	second := b.fake.ContainerID("a")
	b.fake.SetExit(second, 1)
	b.fake.Corrupt(second, func(c *runtimeapi.ContainerStatus) { c.CreatedAt -= int64(time.Hour) })
	if err := b.GarbageCollect(t.Context(), func(types.UID) bool { return true }); err != nil {
		t.Fatal(err)
	}
	b.want(t, pod, "box0 a/1:exit1 b/0:run")
}

// TestGarbageInUnknownState is stopped, with its own grace period, before it is removed.
func TestGarbageInUnknownState(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a c:b", corev1.RestartPolicyAlways)
	pod.Spec.TerminationGracePeriodSeconds = new(int64(7))
	b.mustSync(t, pod)
	b.reboot(cri.Unknown)
	if err := b.GarbageCollect(t.Context(), func(types.UID) bool { return false }); err != nil {
		t.Fatal(err)
	}
	stops := crifake.Requests[*runtimeapi.StopContainerRequest](b.fake)
	if len(stops) != 2 || stops[0].Timeout != 7 {
		t.Errorf("stopped %v", stops)
	}
	b.want(t, pod, "")
}

// TestCrashLoopAfterClockSetBack: a container that ended an hour from now waits for its back-off and no longer.
func TestCrashLoopAfterClockSetBack(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	b.mustSync(t, pod)
	for range 2 {
		b.fake.SetExit(b.fake.ContainerID("a"), 1)
		b.fake.Corrupt(b.fake.ContainerID("a"), func(c *runtimeapi.ContainerStatus) { c.FinishedAt += int64(time.Hour) })
		result := b.mustSync(t, pod)
		if left := time.Until(result.RetryAt); left > 10*time.Second {
			t.Fatalf("the container waits for %v", left)
		}
	}
}

// TestSandboxThatDoesNotStop: a sandbox that is ready although the runtime said that it has stopped is stopped again.
func TestSandboxThatDoesNotStop(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a", corev1.RestartPolicyNever)
	b.mustSync(t, pod)
	for want := 1; want < 3; want++ {
		if err := b.KillPod(t.Context(), pod, mustRead(t, b, pod.UID), nil); err != nil {
			t.Fatal(err)
		}
		if n := b.fake.Count("StopPodSandbox"); n != want {
			t.Errorf("kill %d: the sandbox was stopped %d times", want, n)
		}
		b.fake.CorruptSandbox(b.fake.SandboxIDs()[0], func(s *runtimeapi.PodSandboxStatus) { s.State = runtimeapi.PodSandboxState_SANDBOX_READY })
	}
}
