package status

import (
	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// Reasons of the restart of all containers of a pod in its sandbox.
//
// Upstream: pkg/kubelet/kubelet_pods.go RestartingAllContainers, pkg/kubelet/status/generate.go RestartAllContainersStarted.
const (
	reasonRestartingAll     = "RestartingAllContainers"
	reasonRestartAllStarted = "RestartAllContainersStarted"
	messageRestartingAll    = "The container is removed because RestartAllContainers in place"
)

// mayRestartAll tells whether a rule of the pod asks for the restart of all its containers.
func mayRestartAll(pod *corev1.Pod) bool {
	for container := range podinfo.Containers(pod) {
		for _, rule := range container.RestartPolicyRules {
			if rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
				return true
			}
		}
	}
	return false
}

// restartsAll tells whether a container ended in a way that makes all restart, and is still there. It is removed last.
func (in Inputs) restartsAll() bool {
	if in.Terminating {
		return false
	}
	for container := range podinfo.Containers(in.Pod) {
		c := in.Observed.Container(container.Name)
		if c != nil && c.State == cri.Exited && podinfo.MatchingRule(container, c.ExitCode) == corev1.ContainerRestartRuleActionRestartAllContainers {
			return true
		}
	}
	return false
}

// restartingAll is the condition of a pod whose rules may restart all its containers.
func (in Inputs) restartingAll() corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.AllContainersRestarting, Status: corev1.ConditionFalse}
	if in.restartsAll() {
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, reasonRestartAllStarted, "container exited with restart policy rule"
	}
	return c
}

// removedForRestart tells whether a container that the runtime does not have was removed with all the others of its pod, to
// be started again.
func (in Inputs) removedForRestart(old *corev1.ContainerStatus) bool {
	if in.Terminating || old == nil || old.State.Waiting != nil || !mayRestartAll(in.Pod) {
		return false
	}
	condition := findCondition(in.Old.Conditions, corev1.AllContainersRestarting)
	return condition != nil && condition.Status == corev1.ConditionTrue || in.restartsAll()
}

// endForRestart is the end of a container that was removed to be started again with all others.
func endForRestart() *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{Reason: reasonRestartingAll, Message: messageRestartingAll, ExitCode: 137}
}
