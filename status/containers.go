package status

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

type kind int

const (
	kindRegular kind = iota
	kindInit
	kindEphemeral
)

// containers returns a status for each container of the spec: of init containers in the spec's order, of others by
// name.
//
// Upstream: pkg/kubelet/kubelet_pods.go convertToAPIContainerStatuses.
func (in Inputs) containers(specs []corev1.Container, old []corev1.ContainerStatus, k kind) []corev1.ContainerStatus {
	var statuses []corev1.ContainerStatus
	for i := range specs {
		statuses = append(statuses, in.container(&specs[i], find(old, specs[i].Name), k))
	}
	if k != kindInit {
		slices.SortFunc(statuses, func(a, b corev1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) })
	}
	return statuses
}

func (in Inputs) container(spec *corev1.Container, old *corev1.ContainerStatus, k kind) corev1.ContainerStatus {
	newest, previous := in.attempts(spec.Name)
	s := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, VolumeMounts: in.volumeMounts(spec)}
	if newest == nil {
		in.unknownContainer(&s, old, k)
	} else {
		in.fromRuntime(&s, spec, newest, old)
		in.lastState(&s, previous, old)
	}
	in.applyWaiting(&s, spec, newest, k)
	in.readiness(&s, newest, k)
	if k == kindRegular {
		s.AllocatedResourcesStatus = in.DeviceHealth[spec.Name]
	}
	return s
}

// attempts returns the newest instance of a container, and the one before it.
func (in Inputs) attempts(name string) (newest, previous *cri.ContainerStatus) {
	for _, c := range in.Observed.Containers {
		switch {
		case c.Name != name:
		case newest == nil:
			newest = c
		default:
			return newest, c
		}
	}
	return newest, nil
}

// notBegun is the state of a container that has not been created. kubectl shows PodInitializing as if it were no reason.
func (in Inputs) notBegun() corev1.ContainerState {
	reason := "ContainerCreating"
	if len(in.Pod.Spec.InitContainers) > 0 {
		reason = "PodInitializing"
	}
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
}

// unknownContainer is the status of a container that the runtime does not have, yet or any more.
func (in Inputs) unknownContainer(s *corev1.ContainerStatus, old *corev1.ContainerStatus, k kind) {
	s.State = in.notBegun()
	if in.removedForRestart(old) {
		s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reasonRestartingAll, Message: messageRestartingAll}}
		s.LastTerminationState.Terminated, s.RestartCount = endForRestart(), old.RestartCount+1
		return
	}
	if old != nil && old.State.Terminated != nil {
		*s = *old // the runtime's record was collected; the end it had stays
		return
	}
	if old != nil {
		s.RestartCount, s.LastTerminationState = old.RestartCount, old.LastTerminationState
	}
	switch {
	case k == kindInit && in.regularsBegan() && !podinfo.IsSidecar(podinfo.Container(in.Pod, s.Name)):
		s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Reason: "Completed", Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally",
		}}
	case old == nil || old.State.Running == nil || s.LastTerminationState.Terminated != nil:
	case in.Terminating:
		s.LastTerminationState.Terminated = unknownEnd(lostWhenDeleted)
	default:
		s.LastTerminationState.Terminated = unknownEnd(lostWhenDeleted)
		s.RestartCount++
	}
}

// fromRuntime translates what the runtime says of the newest instance.
func (in Inputs) fromRuntime(s *corev1.ContainerStatus, spec *corev1.Container, c *cri.ContainerStatus, old *corev1.ContainerStatus) {
	s.ContainerID = in.RuntimeName + "://" + c.ID
	s.RestartCount = int32(c.Attempt)
	if c.State == cri.Created { // it has not restarted yet
		s.RestartCount = max(s.RestartCount-1, 0)
	}
	if old != nil { // the runtime's numbers begin anew when all its records are gone
		s.RestartCount = max(s.RestartCount, old.RestartCount)
		if c.State == cri.Running && old.State.Terminated != nil && old.ContainerID != s.ContainerID {
			s.RestartCount = max(s.RestartCount, old.RestartCount+1)
		}
	}
	s.ImageID = c.ImageRef
	if c.Image != "" {
		s.Image = c.Image
	}
	switch c.State {
	case cri.Running:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(c.StartedAt)}
	case cri.Exited:
		s.State.Terminated = in.end(c)
	case cri.Created:
		s.State = in.notBegun()
	default:
		s.State.Waiting = &corev1.ContainerStateWaiting{}
		if old != nil && old.State.Running != nil {
			s.State = corev1.ContainerState{Terminated: unknownEnd(lostWhenTerminated)}
		}
	}
	var applied *corev1.ResourceRequirements
	if old != nil && old.ContainerID == s.ContainerID {
		applied = old.Resources
	}
	s.AllocatedResources = spec.Resources.Requests.DeepCopy()
	s.Resources = resources(spec, c, applied)
	in.memoryRequest(s.Resources, c)
	s.User = user(c.User)
}

// end is an instance's terminated state.
func (in Inputs) end(c *cri.ContainerStatus) *corev1.ContainerStateTerminated {
	message := c.Message
	if told, ok := in.Messages[c.ID]; ok {
		message = told
	}
	reason := c.Reason
	if reason == "" {
		reason = "Error"
		if c.ExitCode == 0 {
			reason = "Completed"
		}
	}
	return &corev1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: reason, Message: message, ContainerID: in.RuntimeName + "://" + c.ID,
		StartedAt: metav1.NewTime(c.StartedAt), FinishedAt: metav1.NewTime(c.FinishedAt),
	}
}

// lastState sets the end of the previous instance: as the runtime says, or as the status before said when the runtime has
// removed it.
func (in Inputs) lastState(s *corev1.ContainerStatus, previous *cri.ContainerStatus, old *corev1.ContainerStatus) {
	switch {
	case previous != nil && previous.State == cri.Exited:
		s.LastTerminationState.Terminated = in.end(previous)
	case old == nil || s.RestartCount == 0:
	case old.RestartCount != s.RestartCount && old.State.Terminated != nil:
		s.LastTerminationState.Terminated = old.State.Terminated
	case old.RestartCount != s.RestartCount && old.State.Running != nil && mayRestartAll(in.Pod):
		s.LastTerminationState.Terminated = endForRestart()
	default:
		s.LastTerminationState = old.LastTerminationState
	}
}

// applyWaiting makes a container that could not be started waiting, with the reason. If it ran before, its end becomes its last state.
// As upstream, an init container or sidecar that ended with code 0 shows that end, also if it is to run again.
func (in Inputs) applyWaiting(s *corev1.ContainerStatus, spec *corev1.Container, newest *cri.ContainerStatus, k kind) {
	why, failed := in.Waiting[spec.Name]
	if !failed || s.State.Running != nil || in.Terminating {
		return
	}
	if k == kindInit && newest != nil && newest.State == cri.Exited && newest.ExitCode == 0 {
		return
	}
	if end := s.State.Terminated; end != nil {
		if k == kindEphemeral || !podinfo.IsSidecar(spec) && !restartsAfter(in.Pod, spec, end) {
			return
		}
		s.LastTerminationState = corev1.ContainerState{Terminated: end}
	}
	s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: why.Reason, Message: why.Message}}
}

// readiness sets started and ready. An init container is ready when it has succeeded.
func (in Inputs) readiness(s *corev1.ContainerStatus, newest *cri.ContainerStatus, k kind) {
	running := s.State.Running != nil && newest != nil
	s.Started = new(running && !in.Unstarted[newest.ID])
	switch {
	case k == kindEphemeral:
		s.Started = nil
	case running:
		s.Ready = *s.Started && !in.Unready[newest.ID]
		if k == kindInit && !podinfo.IsSidecar(podinfo.Container(in.Pod, s.Name)) {
			s.Ready = false
		}
	case k == kindInit && s.State.Terminated != nil:
		end := s.State.Terminated
		s.Ready = podinfo.InitCode(end.ExitCode, end.Reason) == 0 && !podinfo.IsSidecar(podinfo.Container(in.Pod, s.Name))
	}
}
