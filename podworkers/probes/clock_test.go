package probes

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestClockSetBack: a container that began an hour from now, by a clock that was set back, is probed, after its delay.
func TestClockSetBack(t *testing.T) {
	for _, delay := range []int32{0, 5} {
		synctest.Test(t, func(t *testing.T) {
			w := &world{}
			w.now.Store(reading("1", time.Now().Add(time.Hour).Round(0)))
			m := w.manager()
			m.Add(t.Context(), podWith(func(c *corev1.Container) {
				c.ReadinessProbe = execProbe(10, 3)
				c.ReadinessProbe.InitialDelaySeconds = delay
			}))
			start := time.Now()
			if u := <-m.Results(); !u.Success || time.Since(start) != time.Duration(delay)*time.Second {
				t.Errorf("delay %d s: verdict %+v after %v", delay, u, time.Since(start))
			}
			m.Remove("u")
		})
	}
}
