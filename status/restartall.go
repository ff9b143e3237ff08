package status

import (
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	podinfo "minikubelet/config/pod"
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
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, rule := range list[i].RestartPolicyRules {
				if rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
					return true
				}
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
	for _, list := range [][]corev1.Container{in.Pod.Spec.InitContainers, in.Pod.Spec.Containers} {
		for i := range list {
			c := in.Observed.Container(list[i].Name)
			if c != nil && c.State == runtimeapi.ContainerState_CONTAINER_EXITED &&
				podinfo.MatchingRule(&list[i], c.ExitCode) == corev1.ContainerRestartRuleActionRestartAllContainers {
				return true
			}
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
