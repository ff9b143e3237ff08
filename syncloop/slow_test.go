package syncloop

import (
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// TestSlowCgroups: systemd, which sets the cgroups' shares, does not answer; the loop goes on, and asks once.
func TestSlowCgroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newFake(), t.TempDir(), fake.NewClientset())
		asked, answer := 0, make(chan struct{})
		b.UpdateQOS = func([]*corev1.Pod) error { asked++; <-answer; return nil }
		b.start(b.PLEG.Run, b.Config.Run, b.Run)
		b.wait(2 * stallLimit)
		if err := b.Healthy(); err != nil || asked != 1 {
			t.Errorf("asked %d times: %v", asked, err)
		}
		close(answer)
		b.wait(3 * housekeepingPeriod)
		if asked < 2 {
			t.Error("not asked again after the answer")
		}
	})
}
