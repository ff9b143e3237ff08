package status

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestEvicted: reason and condition of an eviction are told when the containers have stopped, and survive what the
// apiserver has.
func TestEvicted(t *testing.T) {
	condition := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: "low",
	}
	override := &Override{Phase: corev1.PodFailed, Reason: "Evicted", Message: "low", Condition: &condition}
	pod := spec(corev1.RestartPolicyAlways, nil, nil, "a")
	running := compute(pod, observed(true, ran("a", 0, runningState, 0)), func(in *Inputs) {
		in.Terminating, in.Override = true, override
	})
	if running.Reason != "" || findCondition(running.Conditions, corev1.DisruptionTarget) != nil {
		t.Errorf("while containers run: %q, %v", running.Reason, running.Conditions)
	}
	theirs := corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, Reason: "Other"}
	s := compute(pod, observed(false), func(in *Inputs) {
		in.Terminating, in.Terminated, in.Override = true, true, override
		in.Old = &corev1.PodStatus{Conditions: []corev1.PodCondition{theirs}}
	})
	c := findCondition(s.Conditions, corev1.DisruptionTarget)
	if s.Phase != corev1.PodFailed || s.Reason != "Evicted" || s.Message != "low" || c == nil || c.Reason != condition.Reason || c.LastTransitionTime.IsZero() {
		t.Errorf("ended: %s %q %q, condition %v", s.Phase, s.Reason, s.Message, c)
	}
	done := pod.DeepCopy()
	done.Status.Phase = corev1.PodSucceeded
	if s := compute(done, observed(false), func(in *Inputs) { in.Terminating, in.Terminated, in.Override = true, true, override }); s.Phase != corev1.PodSucceeded || s.Reason != "" ||
		findCondition(s.Conditions, corev1.DisruptionTarget) != nil {
		t.Errorf("a pod that had ended before: %s %q", s.Phase, s.Reason)
	}
	count := 0
	for _, c := range WithForeign(s.Conditions, []corev1.PodCondition{theirs, {Type: "example.com/Foreign"}}) {
		if c.Type == corev1.DisruptionTarget {
			if count++; c.Reason != condition.Reason {
				t.Errorf("the apiserver's condition wins: %v", c)
			}
		}
	}
	if count != 1 {
		t.Errorf("%d conditions of that type", count)
	}
	for _, c := range WithForeign(running.Conditions, []corev1.PodCondition{theirs}) {
		if c.Type == corev1.DisruptionTarget && c.Reason != "Other" {
			t.Errorf("another's condition is lost: %v", c)
		}
	}
}
