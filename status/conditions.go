package status

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the pod's conditions.
//
// Upstream: pkg/kubelet/status/generate.go.
const (
	reasonPodCompleted   = "PodCompleted"
	reasonPodFailed      = "PodFailed"
	reasonNotInitialized = "ContainersNotInitialized"
	reasonNotReady       = "ContainersNotReady"
	reasonGatesNotReady  = "ReadinessGatesNotReady"
)

// owned are the conditions that the kubelet writes; those of others stay as they are.
var owned = []corev1.PodConditionType{
	corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
}

// setConditions puts the kubelet's own conditions before those of others.
func (in Inputs) setConditions(s, old *corev1.PodStatus) {
	var others []corev1.PodCondition
	for _, c := range old.Conditions {
		if !isOwned(c.Type) {
			others = append(others, c)
		}
	}
	containers := in.containersReady(s)
	list := []corev1.PodCondition{
		in.sandboxReady(), in.initializedCondition(s), in.podReady(containers, others), containers,
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
	for i := range list {
		list[i].ObservedGeneration = in.Pod.Generation
		list[i].LastTransitionTime = metav1.NewTime(in.Now)
		if j := slices.IndexFunc(old.Conditions, func(c corev1.PodCondition) bool { return c.Type == list[i].Type }); j >= 0 {
			before := old.Conditions[j]
			list[i].LastProbeTime = before.LastProbeTime
			if before.Status == list[i].Status && !before.LastTransitionTime.IsZero() {
				list[i].LastTransitionTime = before.LastTransitionTime
			}
		}
	}
	s.Conditions = append(list, others...)
}

// sandboxReady tells whether the pod has a sandbox, and so its network.
//
// Upstream: pkg/kubelet/status/generate.go GeneratePodReadyToStartContainersCondition.
func (in Inputs) sandboxReady() corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse}
	if in.Observed.ReadySandbox() != nil && (in.Pod.Spec.HostNetwork || len(in.Observed.IPs) > 0) {
		c.Status = corev1.ConditionTrue
	}
	return c
}

// Upstream: pkg/kubelet/status/generate.go GeneratePodInitializedCondition.
func (in Inputs) initializedCondition(s *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	if s.Phase == corev1.PodSucceeded {
		c.Reason = reasonPodCompleted
		return c
	}
	var incomplete []string
	for i := range in.Pod.Spec.InitContainers {
		container := &in.Pod.Spec.InitContainers[i]
		if !initialized(container, find(s.InitContainerStatuses, container.Name)) {
			incomplete = append(incomplete, container.Name)
		}
	}
	// Once regular containers run, sidecars that restart do not undo the initialisation.
	begun := slices.ContainsFunc(s.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Running != nil || c.State.Terminated != nil || c.RestartCount > 0
	})
	if len(incomplete) == 0 || begun && !ended(s.Phase) {
		return c
	}
	c.Status, c.Reason = corev1.ConditionFalse, reasonNotInitialized
	c.Message = fmt.Sprintf("containers with incomplete status: %s", list(incomplete))
	return c
}

// Upstream: pkg/kubelet/status/generate.go GenerateContainersReadyCondition.
func (in Inputs) containersReady(s *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}
	switch s.Phase {
	case corev1.PodSucceeded:
		c.Reason = reasonPodCompleted
		return c
	case corev1.PodFailed:
		c.Reason = reasonPodFailed
		return c
	}
	var unready []string
	for i := range in.Pod.Spec.InitContainers {
		if container := &in.Pod.Spec.InitContainers[i]; isSidecar(container) && !isReady(s.InitContainerStatuses, container.Name) {
			unready = append(unready, container.Name)
		}
	}
	for i := range in.Pod.Spec.Containers {
		if name := in.Pod.Spec.Containers[i].Name; !isReady(s.ContainerStatuses, name) {
			unready = append(unready, name)
		}
	}
	if len(unready) > 0 {
		c.Reason, c.Message = reasonNotReady, fmt.Sprintf("containers with unready status: %s", list(unready))
		return c
	}
	c.Status = corev1.ConditionTrue
	return c
}

func isReady(statuses []corev1.ContainerStatus, name string) bool {
	c := find(statuses, name)
	return c != nil && c.Ready
}

func list(names []string) string { return "[" + strings.Join(names, " ") + "]" }

// Upstream: pkg/kubelet/status/generate.go GeneratePodReadyCondition.
func (in Inputs) podReady(containers corev1.PodCondition, others []corev1.PodCondition) corev1.PodCondition {
	c := containers
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	var missing []string
	for _, gate := range in.Pod.Spec.ReadinessGates {
		i := slices.IndexFunc(others, func(c corev1.PodCondition) bool { return c.Type == gate.ConditionType })
		switch {
		case i < 0:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case others[i].Status != corev1.ConditionTrue:
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, others[i].Status))
		}
	}
	if len(missing) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, reasonGatesNotReady, strings.Join(missing, ", ")
	}
	return c
}

// qosClass is the one the pod was given, else what its resources make it.
//
// Upstream: pkg/apis/core/v1/helper/qos/qos.go ComputePodQOS.
func qosClass(pod *corev1.Pod, old *corev1.PodStatus) corev1.PodQOSClass {
	if old.QOSClass != "" {
		return old.QOSClass
	}
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	all := []corev1.ResourceRequirements{}
	if pod.Spec.Resources != nil && len(pod.Spec.Resources.Requests)+len(pod.Spec.Resources.Limits) > 0 {
		all = append(all, *pod.Spec.Resources)
	} else {
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			all = append(all, c.Resources)
		}
	}
	any, guaranteed := false, true
	for _, r := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := quantity(r.Requests, name), quantity(r.Limits, name)
			any = any || !request.IsZero() || !limit.IsZero()
			guaranteed = guaranteed && !limit.IsZero() && (request.IsZero() || request.Cmp(limit) == 0)
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

func quantity(l corev1.ResourceList, name corev1.ResourceName) resource.Quantity { return l[name] }

func isOwned(t corev1.PodConditionType) bool { return slices.Contains(owned, t) }
