package runtime

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/config/pod/podtest"
)

// TestSandboxDiesDuringHook: the reading after a postStart hook is not the one from before it.
func TestSandboxDiesDuringHook(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hook"}}}}
	b.fake.OnExec = func(context.Context, string, []string) (string, int32) {
		b.fake.KillSandbox(b.fake.SandboxIDs()[0])
		return "", 0
	}
	b.mustSync(t, pod)
	if got := state(b.seen(pod)); got != "box1 box0- a/0:exit137 a/1:run" {
		t.Errorf("observed %q", got)
	}
	if cached, ok := b.opts.Cache.Get(pod.UID); !ok || state(cached) != "box1 box0- a/0:exit137 a/1:run" {
		t.Errorf("cached %q", state(cached))
	}
}
