package podworkers

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/status"
)

// TestKill: a pod that the node ends keeps the newest version it was given, and tells when nothing of it is left.
func TestKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("u", nil)})
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) { pod.Generation = 7 })})
		b.fake.Delay("StopContainer", 10*time.Second)
		b.Kill("u", Kill{GracePeriod: new(int64(3)), Override: &status.Override{Phase: corev1.PodFailed, Reason: "Evicted", Message: "low"}})
		cleaned := b.Cleaned("u")
		b.wait(5 * time.Second)
		select {
		case <-cleaned:
			t.Error("cleaned up while containers stop")
		default:
		}
		b.wait(10 * time.Second)
		select {
		case <-cleaned:
		default:
			t.Error("never cleaned up")
		}
		if s := b.statusOf("u"); s.Reason != "Evicted" || s.ObservedGeneration != 7 {
			t.Errorf("the status is %+v", s)
		}
		if got := b.stopTimeouts(); !slices.Equal(got, []int64{3}) {
			t.Errorf("grace periods %v", got)
		}
		b.Kill("nobody", Kill{})
		<-b.Cleaned("nobody")
	})
}
