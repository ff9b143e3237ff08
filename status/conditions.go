package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	podinfo "minikubelet/config/pod"
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
	reasonSandbox        = "PodSandboxNotReady"
	// reasonUnknownStatuses says that there are no container statuses to judge by.
	reasonUnknownStatuses = "UnknownContainerStatuses"
)

// everyPod are the conditions that the kubelet writes of every pod, somePods those of some. Others it leaves as they are.
var (
	everyPod = []corev1.PodConditionType{
		corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
	}
	somePods = []corev1.PodConditionType{corev1.PodResizePending, corev1.PodResizeInProgress, corev1.AllContainersRestarting}
)

// setConditions puts the kubelet's own conditions before those of others.
func (in Inputs) setConditions(s, old *corev1.PodStatus) {
	others := slices.DeleteFunc(slices.Clone(old.Conditions), func(c corev1.PodCondition) bool { return isKubelets(c.Type) })
	containers := in.containersReady(s)
	list := []corev1.PodCondition{
		in.sandboxReady(), in.initializedCondition(s, old), in.podReady(containers, others), containers,
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
	if mayRestartAll(in.Pod) {
		list = append(list, in.restartingAll())
	}
	for i := range list {
		in.date(&list[i], findCondition(old.Conditions, list[i].Type))
	}
	if in.overridden() && in.Override.Condition != nil && !ended(in.Pod.Status.Phase) {
		c := *in.Override.Condition
		in.date(&c, findCondition(others, c.Type))
		others = slices.DeleteFunc(others, func(o corev1.PodCondition) bool { return o.Type == c.Type })
		others = append(others, c)
	}
	if !ended(s.Phase) && !in.Terminated {
		list = append(list, in.Resize...)
	}
	s.Conditions = append(list, others...)
}

// date sets since when a condition has its status, and the generation of the pod that it was computed for.
func (in Inputs) date(c, before *corev1.PodCondition) {
	c.ObservedGeneration = in.Pod.Generation
	c.LastTransitionTime = metav1.NewTime(in.Now)
	if before == nil {
		return
	}
	c.LastProbeTime = before.LastProbeTime
	if before.Status == c.Status && !before.LastTransitionTime.IsZero() {
		c.LastTransitionTime = before.LastTransitionTime
	}
}

func findCondition(list []corev1.PodCondition, kind corev1.PodConditionType) *corev1.PodCondition {
	if i := slices.IndexFunc(list, func(c corev1.PodCondition) bool { return c.Type == kind }); i >= 0 {
		return &list[i]
	}
	return nil
}

// sandboxReady tells whether the pod has a sandbox that can be used, and with it a network.
func (in Inputs) sandboxReady() corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue}
	if problem := in.Observed.SandboxProblem(in.Pod.Spec.HostNetwork); problem != "" {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, reasonSandbox, problem
	}
	return c
}

// initializedCondition tells whether the init containers are done. Once it is true it stays true, although init containers run
// again in a new sandbox and sidecars restart.
func (in Inputs) initializedCondition(s, old *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	if len(in.Pod.Spec.InitContainers) > 0 && len(s.InitContainerStatuses)+len(s.ContainerStatuses) == 0 {
		c.Status, c.Reason = corev1.ConditionFalse, reasonUnknownStatuses
		return c
	}
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
	began := slices.ContainsFunc(s.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Running != nil || c.State.Terminated != nil
	})
	before := findCondition(old.Conditions, corev1.PodInitialized)
	if len(incomplete) == 0 || began || before != nil && before.Status == corev1.ConditionTrue {
		return c
	}
	c.Status, c.Reason = corev1.ConditionFalse, reasonNotInitialized
	c.Message = fmt.Sprintf("containers with incomplete status: %v", incomplete)
	return c
}

// containersReady tells whether all containers, sidecars among them, are ready. Those of an ended pod are not.
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
	for container := range podinfo.LastingContainers(in.Pod) {
		status := cmp.Or(find(s.InitContainerStatuses, container.Name), find(s.ContainerStatuses, container.Name))
		if status == nil || !status.Ready {
			unready = append(unready, container.Name)
		}
	}
	if len(unready) > 0 {
		c.Reason, c.Message = reasonNotReady, fmt.Sprintf("containers with unready status: %v", unready)
		return c
	}
	c.Status = corev1.ConditionTrue
	return c
}

// podReady tells whether the containers are ready and every readiness gate is open.
func (in Inputs) podReady(containers corev1.PodCondition, others []corev1.PodCondition) corev1.PodCondition {
	c := containers
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	var missing []string
	for _, gate := range in.Pod.Spec.ReadinessGates {
		switch have := findCondition(others, gate.ConditionType); {
		case have == nil:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case have.Status != corev1.ConditionTrue:
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, have.Status))
		}
	}
	if len(missing) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, reasonGatesNotReady, strings.Join(missing, ", ")
	}
	return c
}

// isKubelets tells whether the kubelet writes conditions of this type.
func isKubelets(t corev1.PodConditionType) bool {
	return slices.Contains(everyPod, t) || slices.Contains(somePods, t)
}

// isByKubelet tells whether a kubelet wrote a DisruptionTarget condition, which other clients write too.
func isByKubelet(c corev1.PodCondition) bool {
	return c.Type == corev1.DisruptionTarget && c.Reason == corev1.PodReasonTerminationByKubelet
}
