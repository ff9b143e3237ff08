// Package status computes and writes the status of pods: compute.go computes it from what the runtime says, manager.go writes it
// to the apiserver, mirror.go keeps the API objects of static pods.
package status

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// Waiting is why a container, or the sandbox, is not there.
type Waiting struct{ Reason, Message string }

// Override is the phase, reason and message of a pod that the node ends on its own account.
type Override struct {
	Phase           corev1.PodPhase
	Reason, Message string
	// Condition, if there is one, is DisruptionTarget: why the node ended a pod that did nothing wrong.
	Condition *corev1.PodCondition
}

// Inputs are all that Compute looks at.
type Inputs struct {
	Pod      *corev1.Pod
	Observed *cri.PodStatus
	// Old is the status before, from the status manager or else from the apiserver.
	Old *corev1.PodStatus
	// Waiting says of containers, by name, why they could not be started.
	Waiting map[string]Waiting
	// HostIPs are the node's addresses, the primary first.
	HostIPs []string
	// Unready and Unstarted are the IDs of running containers whose readiness or startup probe has not passed.
	Unready, Unstarted map[string]bool
	// Messages are the termination messages of ended containers by ID; of others the runtime's message counts.
	Messages map[string]string
	// RuntimeName prefixes container IDs: containerd://...
	RuntimeName string
	Now         time.Time
	// Resize are the conditions of a resize that waits or is under way. Lagging are the containers that do not have
	// their allocation, with what they have. PodResources is what the pod's cgroup gives it.
	Resize       []corev1.PodCondition
	Lagging      map[string]corev1.ResourceRequirements
	PodResources *corev1.ResourceRequirements
	// DeviceHealth tells how the devices of regular containers are, by name.
	DeviceHealth map[string][]corev1.ResourceStatus
	// RecursiveReadOnly tells that the pod's runtime can make mounts read-only with all below.
	RecursiveReadOnly bool
	// Terminating pods are being stopped; of Terminated ones nothing runs and nothing will.
	Terminating, Terminated bool
	Override                *Override
}

// Compute returns the pod's status. It is pure.
//
// Upstream: pkg/kubelet/kubelet_pods.go generateAPIPodStatus; of terminated pods pkg/kubelet/status/status_manager.go TerminatePod.
func Compute(in Inputs) corev1.PodStatus {
	if in.Old == nil {
		in.Old = &corev1.PodStatus{}
	}
	if in.Observed == nil {
		in.Observed = &cri.PodStatus{UID: in.Pod.UID}
	}
	old := in.Old.DeepCopy()
	s := corev1.PodStatus{
		ObservedGeneration: in.Pod.Generation,
		QOSClass:           cmp.Or(old.QOSClass, podinfo.QOSClass(in.Pod)),
		StartTime:          startTime(old, in.Now),
		Conditions:         old.Conditions,
		NominatedNodeName:  old.NominatedNodeName,
		Resize:             old.Resize,
		Reason:             old.Reason, Message: old.Message,
		ResourceClaimStatuses: old.ResourceClaimStatuses,
	}
	if in.rejected() {
		s.Phase, s.Reason, s.Message = in.Override.Phase, in.Override.Reason, in.Override.Message
		normalize(in.Pod, &s)
		return s
	}
	in.setAddresses(&s)
	s.InitContainerStatuses = in.containers(in.Pod.Spec.InitContainers, old.InitContainerStatuses, kindInit)
	s.ContainerStatuses = in.containers(in.Pod.Spec.Containers, old.ContainerStatuses, kindRegular)
	s.EphemeralContainerStatuses = in.containers(ephemeral(in.Pod), old.EphemeralContainerStatuses, kindEphemeral)
	s.Phase = in.phase(&s, old)
	if in.overridden() && !ended(in.Pod.Status.Phase) { // a pod that had ended keeps the phase it ended with
		s.Phase, s.Reason, s.Message = in.Override.Phase, in.Override.Reason, in.Override.Message
	}
	if in.Terminated {
		in.endContainers(&s)
	}
	in.setPodResources(&s) // part: resources in the status, status/podresources.go
	in.setConditions(&s, old)
	if in.Terminated && !ended(s.Phase) { // it was ended before it came to its end; its conditions say how far it came
		s.Phase = corev1.PodFailed
	}
	normalize(in.Pod, &s)
	return s
}

// phase is what the containers make of the pod, but an end is final.
func (in Inputs) phase(s, old *corev1.PodStatus) corev1.PodPhase {
	for _, before := range []corev1.PodPhase{old.Phase, in.Pod.Status.Phase} {
		if ended(before) {
			return before
		}
	}
	return phase(in.Pod, s.InitContainerStatuses, s.ContainerStatuses, in.regularsBegan(), in.Terminated)
}

// regularsBegan tells whether the sandbox in use has a regular container, so that the init containers are done.
func (in Inputs) regularsBegan() bool {
	sandbox := in.Observed.ReadySandbox()
	if sandbox == nil {
		return false
	}
	return slices.ContainsFunc(in.Observed.Containers, func(c *cri.ContainerStatus) bool {
		return c.SandboxID == sandbox.GetId() && podinfo.IsRegular(in.Pod, c.Name)
	})
}

// overridden tells whether Override counts already: not while containers run.
func (in Inputs) overridden() bool {
	return in.Override != nil && (in.Terminated || len(in.Observed.Containers) == 0)
}

// rejected tells whether the pod was refused before any container of it was thought of. Of such a pod there is no more to tell.
func (in Inputs) rejected() bool {
	return in.overridden() && in.Override.Condition == nil && !ended(in.Pod.Status.Phase) && len(in.Observed.Containers)+len(in.Old.ContainerStatuses)+len(in.Old.InitContainerStatuses) == 0
}

// HoldBack returns the status that the apiserver may see. A pod has ended by Compute when its regular containers have, which
// makes the worker stop its sidecars; until they have stopped, the apiserver sees the phase before.
func HoldBack(s corev1.PodStatus, in Inputs) corev1.PodStatus {
	if !ended(s.Phase) || ended(in.Old.Phase) || len(in.Observed.Running()) == 0 {
		return s
	}
	s.Phase, s.Reason, s.Message = in.Old.Phase, in.Old.Reason, in.Old.Message
	if s.Phase == "" {
		s.Phase = corev1.PodPending
	}
	return s
}

func startTime(old *corev1.PodStatus, now time.Time) *metav1.Time {
	if old.StartTime != nil && !old.StartTime.IsZero() {
		return old.StartTime
	}
	return new(metav1.NewTime(now))
}

// setAddresses sets the addresses of the host and of the pod. Those of the host's first family come first.
func (in Inputs) setAddresses(s *corev1.PodStatus) {
	for _, ip := range in.HostIPs {
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip})
	}
	ips := in.Observed.IPs
	if in.Pod.Spec.HostNetwork {
		ips = in.HostIPs
	}
	if len(ips) == 0 && in.Terminating {
		for _, ip := range in.Old.PodIPs { // the address a pod had belongs to its record
			ips = append(ips, ip.IP)
		}
	}
	if len(in.HostIPs) > 0 {
		s.HostIP = in.HostIPs[0]
	}
	ips = podinfo.SortIPs(ips, in.HostIPs)
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		s.PodIP = ips[0]
	}
}

func ephemeral(pod *corev1.Pod) []corev1.Container {
	var list []corev1.Container
	for i := range pod.Spec.EphemeralContainers {
		list = append(list, corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	return list
}
