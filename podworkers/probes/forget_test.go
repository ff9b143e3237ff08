package probes

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestRemoveForgets: nothing is kept of an ended pod, neither verdicts of probes that were stopped before nor what was
// taken over from the apiserver.
func TestRemoveForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.now.Store(reading("1", time.Now()))
		m := w.manager()
		pod := podWith(func(c *corev1.Container) {
			c.LivenessProbe, c.ReadinessProbe, c.StartupProbe = execProbe(10, 3), execProbe(10, 3), execProbe(10, 3)
		})
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
			Name: "c", ContainerID: "x://before", Ready: true, Started: new(true), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}
		m.Seed(pod)
		m.Add(t.Context(), pod)
		time.Sleep(time.Minute)
		synctest.Wait()
		m.StopLivenessAndStartup(pod.UID)
		m.Remove(pod.UID)
		if len(m.results) != 0 {
			t.Errorf("kept: %v", m.results)
		}
	})
}
