package status

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
)

type kind int

const (
	kindRegular kind = iota
	kindInit
	kindEphemeral
)

// regularContainers are the statuses of the regular containers; until the pod is initialised they wait for that.
func (in Inputs) regularContainers(old *corev1.PodStatus, initialized bool) []corev1.ContainerStatus {
	statuses := in.containers(in.Pod.Spec.Containers, old.ContainerStatuses, kindRegular)
	if initialized || len(in.Pod.Spec.InitContainers) == 0 {
		return statuses
	}
	for i := range statuses {
		if w := statuses[i].State.Waiting; w != nil && w.Reason == "ContainerCreating" {
			w.Reason = "PodInitializing"
		}
	}
	return statuses
}

// containers returns a status for each container of the spec, in the spec's order. An ephemeral container that has
// not been created has none in upstream either, but waits.
//
// Upstream: pkg/kubelet/kubelet_pods.go convertToAPIContainerStatuses.
func (in Inputs) containers(specs []corev1.Container, old []corev1.ContainerStatus, k kind) []corev1.ContainerStatus {
	var statuses []corev1.ContainerStatus
	for i := range specs {
		statuses = append(statuses, in.container(&specs[i], find(old, specs[i].Name), k))
	}
	return statuses
}

func (in Inputs) container(spec *corev1.Container, old *corev1.ContainerStatus, k kind) corev1.ContainerStatus {
	newest, previous := in.attempts(spec.Name)
	s := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image}
	no := false
	s.Started = &no
	if newest == nil {
		in.unknownContainer(&s, old, k)
	} else {
		in.fromRuntime(&s, spec, newest, old)
		in.lastState(&s, previous, old)
	}
	in.applyWaiting(&s, spec, k)
	in.readiness(&s, newest, k)
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

// unknownContainer is the status of a container that the runtime does not have: not yet, or not any more.
func (in Inputs) unknownContainer(s *corev1.ContainerStatus, old *corev1.ContainerStatus, k kind) {
	s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	if old == nil {
		return
	}
	s.RestartCount, s.LastTerminationState = old.RestartCount, old.LastTerminationState
	switch {
	case old.State.Terminated != nil:
		// The runtime's record was collected; the end it had stays.
		s.State, s.ImageID, s.ContainerID = old.State, old.ImageID, old.ContainerID
	case old.State.Running != nil && in.Terminating:
		s.State = corev1.ContainerState{Terminated: unknownEnd("The container could not be located when the pod was deleted.  The container used to be Running")}
	case old.State.Running != nil:
		s.LastTerminationState = corev1.ContainerState{Terminated: unknownEnd("The container could not be located when the pod was deleted.  The container used to be Running")}
		s.RestartCount++
	case k == kindInit && old.Ready:
		s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Reason: "Completed", Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally",
		}}
	}
}

// fromRuntime translates what the runtime says of the newest instance.
//
// Upstream: pkg/kubelet/kubelet_pods.go convertContainerStatus.
func (in Inputs) fromRuntime(s *corev1.ContainerStatus, spec *corev1.Container, c *cri.ContainerStatus, old *corev1.ContainerStatus) {
	s.RestartCount = int32(c.Attempt)
	s.ContainerID = in.RuntimeName + "://" + c.ID
	s.ImageID = c.ImageRef
	if c.Image != "" {
		s.Image = c.Image
	}
	switch c.State {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(c.StartedAt)}
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		s.State.Terminated = in.end(c)
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	default:
		s.State.Waiting = &corev1.ContainerStateWaiting{}
		if old != nil && old.State.Running != nil {
			s.State = corev1.ContainerState{Terminated: unknownEnd("The container could not be located when the pod was terminated")}
		}
	}
	s.AllocatedResources = spec.Resources.Requests.DeepCopy()
	s.Resources = resources(spec, c)
	s.VolumeMounts = volumeMounts(spec)
	s.User = user(c.User)
	if c.StopSignal != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT && spec.Lifecycle != nil && spec.Lifecycle.StopSignal != nil {
		signal := corev1.Signal(strings.TrimPrefix(c.StopSignal.String(), "SIGNAL_"))
		s.StopSignal = &signal
	}
}

// end is an instance's terminated state.
func (in Inputs) end(c *cri.ContainerStatus) *corev1.ContainerStateTerminated {
	message := c.Message
	if in.Message != nil {
		message = in.Message(c)
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

// lastState is the end of the instance before, from the runtime or, once it has forgotten it, from the status before.
func (in Inputs) lastState(s *corev1.ContainerStatus, previous *cri.ContainerStatus, old *corev1.ContainerStatus) {
	switch {
	case previous != nil && previous.State == runtimeapi.ContainerState_CONTAINER_EXITED:
		s.LastTerminationState.Terminated = in.end(previous)
	case old == nil || s.RestartCount == 0:
	case old.RestartCount == s.RestartCount:
		s.LastTerminationState = old.LastTerminationState
	case old.State.Terminated != nil:
		s.LastTerminationState.Terminated = old.State.Terminated
	}
}

// applyWaiting shows why a container that should run does not: its end becomes its last state.
func (in Inputs) applyWaiting(s *corev1.ContainerStatus, spec *corev1.Container, k kind) {
	why, failed := in.Waiting[spec.Name]
	if !failed || s.State.Running != nil || in.Terminating {
		return
	}
	if end := s.State.Terminated; end != nil {
		if k == kindEphemeral || !isSidecar(spec) && !restarts(in.Pod, spec, end.ExitCode) {
			return
		}
		s.LastTerminationState = corev1.ContainerState{Terminated: end}
	}
	s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: why.Reason, Message: why.Message}}
}

// readiness fills in started and ready: an init container is ready when it has done its work.
//
// Upstream: pkg/kubelet/prober/prober_manager.go UpdatePodStatus.
func (in Inputs) readiness(s *corev1.ContainerStatus, newest *cri.ContainerStatus, k kind) {
	running := s.State.Running != nil && newest != nil
	if running {
		started := in.Started == nil || in.Started(newest.ID, s.Name)
		s.Started = &started
	}
	switch {
	case k == kindEphemeral:
		s.Started = nil
	case running:
		s.Ready = *s.Started && (in.Ready == nil || in.Ready(newest.ID, s.Name))
		if k == kindInit && !in.isSidecar(s.Name) {
			s.Ready = false
		}
	case k == kindInit && s.State.Terminated != nil:
		s.Ready = s.State.Terminated.ExitCode == 0 && !in.isSidecar(s.Name)
	}
}

func (in Inputs) isSidecar(name string) bool {
	return slices.ContainsFunc(in.Pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name && isSidecar(&c) })
}

// resources are the spec's, with what the runtime says it applied.
//
// Upstream: pkg/kubelet/kubelet_pods.go convertToAPIContainerStatuses' convertContainerStatusResources.
func resources(spec *corev1.Container, c *cri.ContainerStatus) *corev1.ResourceRequirements {
	r := &corev1.ResourceRequirements{Limits: spec.Resources.Limits.DeepCopy(), Requests: spec.Resources.Requests.DeepCopy()}
	linux := c.Resources.GetLinux()
	if linux == nil || c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return r
	}
	if limit := linux.GetMemoryLimitInBytes(); limit > 0 && r.Limits != nil {
		if _, set := r.Limits[corev1.ResourceMemory]; set {
			r.Limits[corev1.ResourceMemory] = *resource.NewQuantity(limit, resource.BinarySI)
		}
	}
	if quota, period := linux.GetCpuQuota(), linux.GetCpuPeriod(); quota > 0 && period > 0 && r.Limits != nil {
		if cpu, set := r.Limits[corev1.ResourceCPU]; set && cpu.MilliValue() >= 10 { // less is rounded up by the kernel
			r.Limits[corev1.ResourceCPU] = *resource.NewMilliQuantity(quota*1000/period, resource.DecimalSI)
		}
	}
	return r
}

// volumeMounts tell how each volume is mounted.
func volumeMounts(spec *corev1.Container) []corev1.VolumeMountStatus {
	var mounts []corev1.VolumeMountStatus
	for i := range spec.VolumeMounts {
		m := &spec.VolumeMounts[i]
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if r := m.RecursiveReadOnly; r != nil && *r == corev1.RecursiveReadOnlyEnabled {
				mode = corev1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		mounts = append(mounts, s)
	}
	return mounts
}

func user(u *runtimeapi.ContainerUser) *corev1.ContainerUser {
	linux := u.GetLinux()
	if linux == nil {
		return nil
	}
	return &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{
		UID: linux.GetUid(), GID: linux.GetGid(), SupplementalGroups: linux.GetSupplementalGroups(),
	}}
}
