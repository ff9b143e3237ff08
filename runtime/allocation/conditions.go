package allocation

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Conditions are the pod's PodResizePending and PodResizeInProgress, those of them that hold.
//
// Upstream: pkg/kubelet/status/status_manager.go GetPodResizeConditions
func (s *Store) Conditions(uid types.UID) []corev1.PodCondition {
	r, unlock := s.lock(uid)
	defer unlock()
	if r == nil {
		return nil
	}
	var out []corev1.PodCondition
	for _, c := range []*corev1.PodCondition{r.pending, r.progress} {
		if c != nil {
			out = append(out, *c)
		}
	}
	return out
}

// lock returns the pod's record, nil if there is none, for the caller alone until it calls unlock.
func (s *Store) lock(uid types.UID) (r *record, unlock func()) {
	s.mu.Lock()
	return s.pods[uid], s.mu.Unlock
}

// backfill takes over the conditions that an earlier kubelet wrote.
func (r *record) backfill(pod *corev1.Pod) {
	for i := range pod.Status.Conditions {
		switch c := pod.Status.Conditions[i].DeepCopy(); c.Type {
		case corev1.PodResizePending:
			r.pending = c
		case corev1.PodResizeInProgress:
			r.progress = c
		}
	}
}

// Pend records that the pod cannot have what it asks for now, and reports whether that is news: another reason, or
// another version of the pod.
func (s *Store) Pend(pod *corev1.Pod, reason, message string) (news bool) {
	r, unlock := s.lock(pod.UID)
	defer unlock()
	if r == nil {
		return false
	}
	old := r.pending
	news = old == nil || old.Reason != reason || old.ObservedGeneration != pod.Generation
	if news || old.Message != message {
		r.pending = condition(corev1.PodResizePending, old, reason, message, pod.Generation)
	}
	return news
}

// Unpend records that the pod does not wait for a resize, and reports whether it did.
func (s *Store) Unpend(uid types.UID) bool {
	r, unlock := s.lock(uid)
	defer unlock()
	if r == nil || r.pending == nil {
		return false
	}
	r.pending = nil
	return true
}

// Begin records that what was allocated is now to be actuated. What went wrong with an earlier resize is forgotten.
func (s *Store) Begin(pod *corev1.Pod) {
	r, unlock := s.lock(pod.UID)
	defer unlock()
	if r != nil {
		r.pending, r.progress = nil, condition(corev1.PodResizeInProgress, nil, "", "", pod.Generation)
	}
}

// Progress records that a resize is under way, or that it failed, with a reason and a message. It returns the version of
// the pod whose resize that is, and whether that is news. The version stays that of the first call, as does a failure until the next.
func (s *Store) Progress(pod *corev1.Pod, reason, message string) (generation int64, news bool) {
	r, unlock := s.lock(pod.UID)
	defer unlock()
	if r == nil {
		return pod.Generation, false
	}
	generation = pod.Generation
	if old := r.progress; old != nil {
		generation = old.ObservedGeneration
		if reason == "" && message == "" || old.Reason == reason && old.Message == message {
			return generation, false
		}
	}
	r.progress = condition(corev1.PodResizeInProgress, r.progress, reason, message, generation)
	return generation, true
}

// Done records that a resize is over, if nothing lags any more. It returns the version of the pod whose resize that was, and
// false if there was none.
func (s *Store) Done(uid types.UID) (generation int64, was bool) {
	r, unlock := s.lock(uid)
	defer unlock()
	if r == nil || r.progress == nil || !r.Actuated.empty() {
		return 0, false
	}
	generation = r.progress.ObservedGeneration
	r.progress = nil
	return generation, true
}

// condition is true from now on, or since its reason began to hold. Upstream: status_manager.go updatedPodResizeCondition
func condition(kind corev1.PodConditionType, old *corev1.PodCondition, reason, message string, generation int64) *corev1.PodCondition {
	now := metav1.NewTime(time.Now())
	since := now
	if old != nil && old.Reason == reason {
		since = old.LastTransitionTime
	}
	return &corev1.PodCondition{
		Type: kind, Status: corev1.ConditionTrue, LastProbeTime: now, LastTransitionTime: since,
		ObservedGeneration: generation, Reason: reason, Message: message,
	}
}
