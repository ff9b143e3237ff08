package runtime

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/config/pod/podtest"
)

// TestRemovalFails: what the runtime does not remove keeps its own container from starting, and no other.
func TestRemovalFails(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a c:b", corev1.RestartPolicyAlways)
	b.fake.FailNext("StartContainer", errors.New("hangs"))
	if _, err := b.sync(t, pod, inputs{}); err == nil {
		t.Fatal("the start did not fail")
	}
	b.want(t, pod, "box0 a/0:new b/0:run")
	b.fake.SetExit(b.fake.ContainerID("b"), 1)
	b.fake.FailNext("RemoveContainer", errors.New("in starting state"))
	result, err := b.sync(t, pod, inputs{})
	if err == nil || !strings.Contains(err.Error(), "remove container a: ") || result.Containers["a"].Reason != ReasonCreateContainer {
		t.Errorf("error %v, of the container %+v", err, result.Containers["a"])
	}
	b.want(t, pod, "box0 a/0:new b/0:exit1 b/1:run")
	b.mustSync(t, pod)
	b.want(t, pod, "box0 a/0:run b/0:exit1 b/1:run")
}

// TestRemovalFailsInALostSandbox: the record of an init container that cannot be removed keeps the pod from no new sandbox.
func TestRemovalFailsInALostSandbox(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("i:i c:a", corev1.RestartPolicyAlways)
	b.mustSync(t, pod)
	b.fake.SetExit(b.fake.ContainerID("i"), 0)
	b.mustSync(t, pod)
	b.fake.KillSandbox(b.fake.SandboxIDs()[0])
	b.fake.FailNext("RemoveContainer", errors.New("cannot delete running task"))
	if _, err := b.sync(t, pod, inputs{}); err == nil || !strings.Contains(err.Error(), "remove container i: ") {
		t.Errorf("the error is %v", err)
	}
	b.mustSync(t, pod)
	if got := state(b.seen(pod)); !strings.HasPrefix(got, "box1 ") || !strings.Contains(got, "i/1:run") {
		t.Errorf("the pod is %q", got)
	}
}

// TestNeverStartedInALostSandbox: what was created in a sandbox that is gone, and never started, is no obstacle to its successor.
func TestNeverStartedInALostSandbox(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	b.fake.FailNext("StartContainer", errors.New("cut"))
	if _, err := b.sync(t, pod, inputs{}); err == nil {
		t.Fatal("the start did not fail")
	}
	b.fake.KillSandbox(b.fake.SandboxIDs()[0])
	b.mustSync(t, pod)
	b.want(t, pod, "box1 box0- a/0:run")
}
