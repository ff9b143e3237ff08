package runtime

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/config/pod/podtest"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/spec"
)

func TestCrashLoop(t *testing.T) {
	const longest = 5 * time.Minute
	for n, want := range map[uint32]time.Duration{0: 0, 1: 10 * time.Second, 2: 20 * time.Second, 5: 160 * time.Second, 6: longest, 40: longest} {
		if got := crashDelay(n, longest); got != want {
			t.Errorf("delay %d: %v, want %v", n, got, want)
		}
	}
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	container := &pod.Spec.Containers[0]
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	ended := func(attempt uint32, ran time.Duration) *cri.ContainerStatus {
		return &cri.ContainerStatus{State: cri.Exited, Attempt: attempt, StartedAt: at.Add(-ran), FinishedAt: at, Hash: spec.Hash(container)}
	}
	c := newCrashLoops(longest)
	step := func(what string, last *cri.ContainerStatus, want time.Duration) {
		t.Helper()
		delay, until := c.wait(pod, container, last, at)
		if delay != want || (last != nil && !until.Equal(at.Add(want))) {
			t.Errorf("%s: %v until %v, want %v", what, delay, until, want)
		}
	}
	step("never ran", nil, 0)
	step("first end", ended(0, time.Second), 0)
	step("second", ended(1, time.Second), 10*time.Second)
	step("third", ended(2, time.Second), 20*time.Second)
	step("asked again", ended(2, time.Second), 20*time.Second)
	step("a long run", ended(3, crashLoopReset+time.Second), 0)
	step("after it", ended(4, time.Second), 10*time.Second)
	c = newCrashLoops(longest)
	step("kubelet restarted in a loop", ended(9, time.Second), longest)
	(&Runtime{crash: c}).SetCrashLoopMax(time.Minute)
	step("the longest back-off is set anew", ended(9, time.Second), time.Minute)
	(&Runtime{crash: c}).SetCrashLoopMax(0)
	step("and given up", ended(9, time.Second), longest)
	container.Image = "image:2"
	step("another image", ended(9, time.Second), 0)
	step("and again", &cri.ContainerStatus{State: cri.Exited, Attempt: 10, FinishedAt: at, Hash: spec.Hash(container)}, 10*time.Second)
	c.forget(pod.UID)
	step("numbered from the logs", nil, 0)
	c.begin(pod.UID, container, 7)
	step("its first end", &cri.ContainerStatus{State: cri.Exited, Attempt: 7, FinishedAt: at, Hash: spec.Hash(container)}, 0)
}

// TestCrashLoopClock: how long a container waits does not follow a clock that is set while it waits, and at the most all of
// the back-off is left of one that was set back before.
func TestCrashLoopClock(t *testing.T) {
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	container := &pod.Spec.Containers[0]
	now := time.Now()
	for _, finished := range []time.Duration{-3 * time.Second, time.Hour} {
		last := &cri.ContainerStatus{State: cri.Exited, Attempt: 1, FinishedAt: now.Round(0).Add(finished), Hash: spec.Hash(container)}
		_, until := newCrashLoops(crashLoopMax).wait(pod, container, last, now)
		if want := now.Add(crashLoopBase + min(finished, 0)); until.Sub(want).Abs() > time.Millisecond {
			t.Errorf("ended %v from now: until %v, want %v", finished, until, want)
		}
		if !strings.Contains(until.String(), " m=") {
			t.Errorf("ended %v from now: %v goes by the clock on the wall", finished, until)
		}
	}
}

// TestCrashLoopWithoutTimes: a container waits also if the runtime does not say when it ended.
func TestCrashLoopWithoutTimes(t *testing.T) {
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	container, now := &pod.Spec.Containers[0], time.Now()
	last := &cri.ContainerStatus{State: cri.Exited, Attempt: 1, Hash: spec.Hash(container)}
	if _, until := newCrashLoops(crashLoopMax).wait(pod, container, last, now); !until.Equal(now.Add(crashLoopBase)) {
		t.Errorf("it waits for %v, want %v", until.Sub(now), crashLoopBase)
	}
}
