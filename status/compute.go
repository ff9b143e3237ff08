// Package status knows what the apiserver should hold of each pod: compute.go works it out from what the
// runtime says, manager.go writes it, mirror.go keeps the API objects of static pods.
package status

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/runtime/cri"
)

// Waiting is why a container, or the sandbox, is not there.
type Waiting struct{ Reason, Message string }

// Override is the phase, reason and message of a pod that the node ends on its own account.
type Override struct {
	Phase           corev1.PodPhase
	Reason, Message string
}

// Inputs are all that Compute looks at.
type Inputs struct {
	Pod      *corev1.Pod
	Observed *cri.PodStatus
	// Old is the status before, from the status manager or else from the apiserver.
	Old *corev1.PodStatus
	// Waiting holds the containers that could not be started, by name; Sandbox why there is no sandbox.
	Waiting map[string]Waiting
	Sandbox *Waiting
	// HostIPs are the node's addresses, the primary first.
	HostIPs []string
	// Ready and Started tell what the probes say of a running container.
	Ready, Started func(containerID, name string) bool
	// Message returns an ended container's last words; nil for what the runtime says.
	Message func(*cri.ContainerStatus) string
	// RuntimeName prefixes container IDs: containerd://...
	RuntimeName string
	Now         time.Time
	// Terminating pods are being stopped; of Terminated ones nothing runs and nothing will.
	Terminating, Terminated bool
	Override                *Override
}

// Compute returns the pod's status. It is pure.
//
// Upstream: pkg/kubelet/kubelet_pods.go generateAPIPodStatus.
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
		QOSClass:           qosClass(in.Pod, old),
		StartTime:          startTime(old, in.Now),
		Conditions:         old.Conditions,
		NominatedNodeName:  old.NominatedNodeName,
		Resize:             old.Resize,
		Reason:             old.Reason, Message: old.Message,
		ResourceClaimStatuses: old.ResourceClaimStatuses,
	}
	in.setAddresses(&s)
	s.InitContainerStatuses = in.containers(in.Pod.Spec.InitContainers, old.InitContainerStatuses, kindInit)
	initialized := allInitialized(in.Pod, s.InitContainerStatuses)
	s.ContainerStatuses = in.regularContainers(old, initialized)
	s.EphemeralContainerStatuses = in.containers(ephemeral(in.Pod), old.EphemeralContainerStatuses, kindEphemeral)

	s.Phase = phase(in.Pod, s.InitContainerStatuses, s.ContainerStatuses, in.Terminated)
	in.override(&s)
	if ended(old.Phase) && !ended(s.Phase) {
		s.Phase = old.Phase // an end is final
	}
	if ended(s.Phase) && !in.anyRunning() {
		finish(&s)
	}
	in.setConditions(&s, old)
	return s
}

func ended(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

func (in Inputs) anyRunning() bool { return len(in.Observed.Running()) > 0 }

// override applies the node's own verdict, once the containers have stopped.
func (in Inputs) override(s *corev1.PodStatus) {
	if in.Override == nil {
		return
	}
	s.Reason, s.Message = in.Override.Reason, in.Override.Message
	if in.Terminated || !in.anyRunning() && len(in.Observed.Containers) == 0 {
		s.Phase = in.Override.Phase
	}
}

func startTime(old *corev1.PodStatus, now time.Time) *metav1.Time {
	if old.StartTime != nil && !old.StartTime.IsZero() {
		return old.StartTime
	}
	t := metav1.NewTime(now)
	return &t
}

// setAddresses fills in the host's and the pod's addresses, the pod's in the order of the host's families.
//
// Upstream: pkg/kubelet/kubelet_pods.go generateAPIPodStatus and sortPodIPs.
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
		first := isIPv6(in.HostIPs[0])
		ips = slices.Clone(ips)
		slices.SortStableFunc(ips, func(a, b string) int {
			switch av, bv := isIPv6(a) == first, isIPv6(b) == first; {
			case av == bv:
				return 0
			case av:
				return -1
			}
			return 1
		})
	}
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		s.PodIP = ips[0]
	}
}

func isIPv6(ip string) bool {
	a, err := netip.ParseAddr(ip)
	return err == nil && a.Is6()
}

func ephemeral(pod *corev1.Pod) []corev1.Container {
	var list []corev1.Container
	for i := range pod.Spec.EphemeralContainers {
		list = append(list, corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	return list
}

// finish gives every container of an ended pod an end: one that never started, or of which the runtime knows
// nothing any more, has an unknown one.
//
// Upstream: pkg/kubelet/status/status_manager.go TerminatePod.
func finish(s *corev1.PodStatus) {
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			c := &list[i]
			no := false
			c.Started = &no
			if c.State.Terminated != nil {
				continue
			}
			c.Ready = false
			if last := c.LastTerminationState.Terminated; last != nil && c.State.Waiting != nil {
				c.State = corev1.ContainerState{Terminated: last}
				c.LastTerminationState = corev1.ContainerState{}
				continue
			}
			c.State = corev1.ContainerState{Terminated: unknownEnd("The container could not be located when the pod was terminated")}
		}
	}
}

func unknownEnd(message string) *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{Reason: "ContainerStatusUnknown", Message: message, ExitCode: 137}
}
