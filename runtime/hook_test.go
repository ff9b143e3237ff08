package runtime

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/config/pod/podtest"
)

// TestPreStopOutlivesGrace: a hook that takes longer than the grace period goes on until the container has had its two
// seconds after it, and then has failed.
func TestPreStopOutlivesGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
		pod.Spec.TerminationGracePeriodSeconds = new(int64(5))
		pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"forever"}}}}
		start := time.Now()
		var lasted time.Duration
		b.fake.OnExec = func(ctx context.Context, _ string, _ []string) (string, int32) {
			<-ctx.Done()
			lasted = time.Since(start)
			return "", 1
		}
		observed := b.start(t, pod)
		b.fake.Delay("StopContainer", 2*time.Second)
		if err := b.KillPod(t.Context(), pod, observed, nil); err != nil {
			t.Fatal(err)
		}
		if lasted != 7*time.Second {
			t.Errorf("the hook lasted %v", lasted)
		}
		wantEvents(t, b, "Warning FailedPreStopHook spec.containers{a}: PreStopHook failed")
	})
}
