package status

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// longestWait is how long a status may wait that tells little: that the pod was seen, or that its deletion was. Most pods run
// before it is over, or are gone if they end, and one write then tells everything.
const longestWait = 500 * time.Millisecond

// patience is how long a pod's status waits before it is written.
func patience(pod *corev1.Pod, before, now *corev1.PodStatus) time.Duration {
	if before == nil && starting(now) || before != nil && pod.DeletionTimestamp != nil && sameButGeneration(before, now) {
		return longestWait
	}
	return 0
}

// sameButGeneration tells whether two statuses differ in nothing but the generation that they were computed for.
func sameButGeneration(a, b *corev1.PodStatus) bool {
	without := func(s *corev1.PodStatus) *corev1.PodStatus {
		s = s.DeepCopy()
		s.ObservedGeneration = 0
		for i := range s.Conditions {
			s.Conditions[i].ObservedGeneration = 0
		}
		return s
	}
	return equality.Semantic.DeepEqual(without(a), without(b))
}

// starting tells whether a status says no more than that the pod has been seen.
func starting(s *corev1.PodStatus) bool {
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			w := list[i].State.Waiting
			if w == nil || w.Message != "" || list[i].RestartCount > 0 {
				return false
			}
		}
	}
	return s.Phase == corev1.PodPending
}
