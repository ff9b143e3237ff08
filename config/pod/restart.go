package pod

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// RestartPolicy is the container's own restart policy, else the pod's.
func RestartPolicy(pod *corev1.Pod, container *corev1.Container) corev1.RestartPolicy {
	if container.RestartPolicy != nil {
		return corev1.RestartPolicy(*container.RestartPolicy)
	}
	return pod.Spec.RestartPolicy
}

// Restarts tells whether a container that ended with this code is started again. The container's restart rules decide,
// then its restart policy, then the pod's.
func Restarts(pod *corev1.Pod, container *corev1.Container, exitCode int32) bool {
	if MatchingRule(container, exitCode) != "" {
		return true
	}
	switch RestartPolicy(pod, container) {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return exitCode != 0
	}
	return true
}

// MatchingRule is what the first of the container's restart rules for this exit code asks for, "" if there is none.
func MatchingRule(container *corev1.Container, exitCode int32) corev1.ContainerRestartRuleAction {
	if container.RestartPolicy == nil {
		return ""
	}
	for _, rule := range container.RestartPolicyRules {
		if rule.ExitCodes == nil {
			continue
		}
		listed := slices.Contains(rule.ExitCodes.Values, exitCode)
		if rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn && listed ||
			rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpNotIn && !listed {
			return rule.Action
		}
	}
	return ""
}

// InitCode is the exit code that counts of an init container: one that was killed for lack of memory has failed whatever its code.
//
// Upstream: pkg/kubelet/kuberuntime/helpers.go isInitContainerFailed
func InitCode(exitCode int32, reason string) int32 {
	if exitCode == 0 && reason == "OOMKilled" {
		return 137
	}
	return exitCode
}
