package status

import (
	"slices"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
)

// reasonUnknown is the reason of an end that neither the kubelet nor the runtime saw, code 137 its exit code.
const reasonUnknown = "ContainerStatusUnknown"

const (
	lostWhenDeleted    = "The container could not be located when the pod was deleted.  The container used to be Running"
	lostWhenTerminated = "The container could not be located when the pod was terminated"
)

func unknownEnd(message string) *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{Reason: reasonUnknown, Message: message, ExitCode: 137}
}

// endContainers makes the containers of a terminated pod terminated. Those whose turn had not come when the pod was still being
// initialised stay waiting.
func (in Inputs) endContainers(s *corev1.PodStatus) {
	end := func(list []corev1.ContainerStatus) {
		for i := range list {
			if list[i].State.Terminated == nil {
				list[i].State = corev1.ContainerState{Terminated: unknownEnd(lostWhenTerminated)}
				list[i].Ready = false
			}
		}
	}
	if in.wasInitialized(s) {
		end(s.ContainerStatuses)
	}
	end(s.InitContainerStatuses[:begun(s.InitContainerStatuses)])
}

// wasInitialized tells whether regular containers had their turn.
func (in Inputs) wasInitialized(s *corev1.PodStatus) bool {
	if initial := findCondition(in.Old.Conditions, corev1.PodInitialized); initial != nil && initial.Status == corev1.ConditionTrue {
		return true
	}
	for i := range s.ContainerStatuses {
		if c := &s.ContainerStatuses[i]; c.State.Waiting == nil || c.LastTerminationState.Terminated != nil {
			return true
		}
	}
	return allInitialized(in.Pod, s.InitContainerStatuses)
}

// begun is the number of init containers up to the last that ever ran; the first always counts.
func begun(inits []corev1.ContainerStatus) int {
	for i, c := range slices.Backward(inits) {
		if c.State.Waiting == nil || c.LastTerminationState.Terminated != nil {
			return i + 1
		}
	}
	return min(len(inits), 1)
}

// maxMessages is how many bytes the termination messages of one pod may have, shared equally by its containers.
const maxMessages = 12 << 10

// normalize brings a status into the form that the apiserver gives back, so that the two can be compared.
func normalize(pod *corev1.Pod, s *corev1.PodStatus) {
	limit := maxMessages
	if n := len(pod.Spec.Containers) + len(pod.Spec.InitContainers) + len(pod.Spec.EphemeralContainers); n > 0 {
		limit /= n
	}
	if s.StartTime != nil {
		s.StartTime = new(s.StartTime.Rfc3339Copy())
	}
	for i := range s.Conditions {
		c := &s.Conditions[i]
		c.LastProbeTime, c.LastTransitionTime = c.LastProbeTime.Rfc3339Copy(), c.LastTransitionTime.Rfc3339Copy()
	}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			list[i].State = normalizeState(list[i].State, limit)
			list[i].LastTerminationState = normalizeState(list[i].LastTerminationState, limit)
		}
	}
}

// normalizeState returns a copy: states are shared with the status before.
func normalizeState(s corev1.ContainerState, limit int) corev1.ContainerState {
	if s.Running != nil {
		s.Running = &corev1.ContainerStateRunning{StartedAt: s.Running.StartedAt.Rfc3339Copy()}
	}
	if s.Terminated != nil {
		end := *s.Terminated
		end.StartedAt, end.FinishedAt = end.StartedAt.Rfc3339Copy(), end.FinishedAt.Rfc3339Copy()
		end.Message = truncate(end.Message, limit)
		s.Terminated = &end
	}
	return s
}

// truncate cuts a message between characters, since half a character is not valid in JSON.
func truncate(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
