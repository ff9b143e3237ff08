package status

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Adopt takes over how a static pod was before the kubelet started, as its mirror tells. The next status is worked out from
// that, so that times stay and readiness does not flip; one that was worked out without it counts only if it is the last.
//
// Upstream: pkg/kubelet/status/status_manager.go updateStatusInternal, whose old status is that of the mirror.
func (m *Manager) Adopt(static types.UID, was corev1.PodStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.pods[static]
	if e == nil {
		e = &entry{static: true}
		m.pods[static] = e
	}
	now := corev1.PodStatus{Phase: corev1.PodPending}
	if e.want != nil {
		now = *e.want
	}
	e.want, e.before = adopted(was, now), was.StartTime.Rfc3339Copy()
}

// adopted is how a pod is that was like that and of which it was found out what it is now. That it has ended is found out,
// never taken over: a static pod starts again when its manifest is put back. It is pure.
func adopted(was, now corev1.PodStatus) *corev1.PodStatus {
	if !ended(now.Phase) {
		s := was.DeepCopy()
		if ended(was.Phase) {
			s.Phase, s.Reason, s.Message = now.Phase, now.Reason, now.Message
		}
		return s
	}
	s := now.DeepCopy()
	s.StartTime = was.StartTime.DeepCopy()
	for i := range s.Conditions {
		c := &s.Conditions[i]
		if before := findCondition(was.Conditions, c.Type); before != nil && before.Status == c.Status {
			c.LastTransitionTime = before.LastTransitionTime
		}
	}
	return s
}
