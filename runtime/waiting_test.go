package runtime

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/config/pod/podtest"
)

// TestOthersGoOnWhileOneWaits: a container that dies while another one starts is started in the same sync, although a
// third one waits for its back-off, cannot be ended or fails to start.
func TestOthersGoOnWhileOneWaits(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(*testing.T, *bench, *corev1.Pod) verdicts
		fails   bool
		want    string
	}{
		"back-off": {func(t *testing.T, b *bench, pod *corev1.Pod) verdicts {
			b.fake.SetExit(b.fake.ContainerID("a"), 1)
			b.mustSync(t, pod)
			b.fake.SetExit(b.fake.ContainerID("a"), 1)
			return verdicts{}
		}, false, "box0 a/0:exit1 a/1:exit1 b/0:exit1 b/1:run c/0:exit1 c/1:run"},
		"failed start": {func(_ *testing.T, b *bench, _ *corev1.Pod) verdicts {
			b.fake.SetExit(b.fake.ContainerID("a"), 1)
			b.fake.FailNext("CreateContainer", errors.New("no room"))
			return verdicts{}
		}, true, "box0 a/0:exit1 b/0:exit1 b/1:run c/0:exit1 c/1:run"},
		"failed end": {func(_ *testing.T, b *bench, _ *corev1.Pod) verdicts {
			b.fake.FailNext("StopContainer", errors.New("busy"))
			return verdicts{b.fake.ContainerID("a"): "L"}
		}, true, "box0 a/0:run b/0:exit1 b/1:run c/0:exit1 c/1:run"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			pod := podtest.Pod("c:a c:b c:c", corev1.RestartPolicyAlways)
			pod.Spec.Containers[2].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hook"}}}}
			b.mustSync(t, pod)
			answer := tc.prepare(t, b, pod)
			b.fake.SetExit(b.fake.ContainerID("c"), 1)
			b.fake.OnExec = func(context.Context, string, []string) (string, int32) {
				b.fake.SetExit(b.fake.ContainerID("b"), 1)
				return "", 0
			}
			result, err := b.sync(t, pod, inputs{verdicts: answer})
			if (err != nil) != tc.fails {
				t.Errorf("error %v", err)
			}
			if _, waits := result.Containers["a"]; !waits || len(result.Containers) != 1 {
				t.Errorf("waiting: %v", result.Containers)
			}
			b.want(t, pod, tc.want)
		})
	}
}
