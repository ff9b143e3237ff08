package status

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	podinfo "minikubelet/config/pod"
)

// TestAdopt: a status that was worked out without what the mirror told does not count; an end that was found out does, with
// the times that the mirror told.
func TestAdopt(t *testing.T) {
	at := func(hour int) metav1.Time { return metav1.NewTime(time.Date(2000, 1, 1, hour, 0, 0, 0, time.UTC)) }
	status := func(phase corev1.PodPhase, start metav1.Time, ready corev1.ConditionStatus, since metav1.Time) corev1.PodStatus {
		return corev1.PodStatus{Phase: phase, StartTime: &start, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: ready, LastTransitionTime: since}, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: since},
		}}
	}
	static := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u", Annotations: map[string]string{podinfo.SourceAnnotation: "file"}}}
	was := status(corev1.PodRunning, at(1), corev1.ConditionTrue, at(2))
	for _, tt := range []struct {
		name       string
		found      *corev1.PodStatus
		was        corev1.PodStatus
		phase      corev1.PodPhase
		ready      corev1.ConditionStatus
		since, all metav1.Time
	}{
		{"nothing found yet", nil, was, corev1.PodRunning, corev1.ConditionTrue, at(2), at(2)},
		{"it runs, not yet ready", new(status(corev1.PodRunning, at(5), corev1.ConditionFalse, at(5))), was, corev1.PodRunning, corev1.ConditionTrue, at(2), at(2)},
		{"it has ended", new(status(corev1.PodSucceeded, at(5), corev1.ConditionFalse, at(5))), was, corev1.PodSucceeded, corev1.ConditionFalse, at(5), at(2)},
		{"it had ended, and runs", new(status(corev1.PodRunning, at(5), corev1.ConditionTrue, at(5))),
			status(corev1.PodFailed, at(1), corev1.ConditionFalse, at(2)), corev1.PodRunning, corev1.ConditionFalse, at(2), at(2)},
		{"it had ended", nil, status(corev1.PodFailed, at(1), corev1.ConditionFalse, at(2)), corev1.PodPending, corev1.ConditionFalse, at(2), at(2)},
	} {
		m := New(Options{})
		if tt.found != nil {
			m.Set(static, *tt.found)
		}
		m.Adopt("u", tt.was)
		late := status(corev1.PodPending, at(6), corev1.ConditionFalse, at(6))
		m.Set(static, late)
		got, _ := m.Get("u")
		ready, scheduled := got.Conditions[0], got.Conditions[1]
		if got.Phase != tt.phase || !got.StartTime.Equal(new(at(1))) || ready.Status != tt.ready || !ready.LastTransitionTime.Equal(&tt.since) || !scheduled.LastTransitionTime.Equal(&tt.all) {
			t.Errorf("%s: %+v", tt.name, got)
		}
		next := status(corev1.PodRunning, at(1), corev1.ConditionTrue, at(7))
		m.Set(static, next)
		if got, _ := m.Get("u"); got.Phase != corev1.PodRunning || !got.Conditions[0].LastTransitionTime.Equal(new(at(7))) {
			t.Errorf("%s: the next status does not count: %+v", tt.name, got)
		}
		m.queue.ShutDown()
	}
}
