package status

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Adopt takes over the status that a static pod had before the kubelet started, from its mirror. The next status is computed
// from it, so that times stay and readiness does not flip. A status that was computed without it does not count, unless it
// says that the pod has ended.
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

// adopted merges the status that a pod had with the one that was computed since. That the pod has ended comes only from the
// latter: a static pod starts again when its manifest is put back. It is pure.
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

// SetMirror says which API object stands for a static pod, nil for none at present.
func (m *Manager) SetMirror(static types.UID, mirror *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.pods[static]
	if e == nil {
		e = &entry{}
		m.pods[static] = e
	}
	e.static = true
	switch {
	case mirror == nil:
		e.object = apiObject{}
	case e.object.uid != mirror.UID:
		e.object, e.gone = apiObject{}, false
		e.object.take(mirror)
		m.queue.Add(static)
	}
}
