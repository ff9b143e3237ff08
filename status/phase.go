package status

import (
	corev1 "k8s.io/api/core/v1"
)

// tally counts a pod's regular containers by what they do.
type tally struct{ running, waiting, stopped, succeeded int }

func count(pod *corev1.Pod, statuses []corev1.ContainerStatus) tally {
	var t tally
	for i := range pod.Spec.Containers {
		c := find(statuses, pod.Spec.Containers[i].Name)
		switch {
		case c == nil:
			t.waiting++
		case c.State.Running != nil:
			t.running++
		case c.State.Terminated != nil:
			t.stopped++
			if c.State.Terminated.ExitCode == 0 {
				t.succeeded++
			}
		case c.LastTerminationState.Terminated != nil:
			t.stopped++
		default:
			t.waiting++
		}
	}
	return t
}

// phase sums the containers up.
//
// Upstream: pkg/kubelet/kubelet_pods.go getPhase.
func phase(pod *corev1.Pod, inits, statuses []corev1.ContainerStatus, terminated bool) corev1.PodPhase {
	t := count(pod, statuses)
	if terminated {
		return endPhase(pod, inits, t)
	}
	if initFailed(pod, inits) {
		return corev1.PodFailed
	}
	begun := t.running+t.stopped > 0
	switch {
	case !begun && !allInitialized(pod, inits):
		return corev1.PodPending
	case t.waiting > 0 && t.stopped > 0:
		return corev1.PodRunning
	case t.waiting > 0:
		return corev1.PodPending
	case t.running > 0:
		return corev1.PodRunning
	case restartsAny(pod, statuses):
		return corev1.PodRunning // all of them are about to start again
	case t.stopped == t.succeeded:
		return corev1.PodSucceeded
	}
	return corev1.PodFailed
}

// endPhase is the phase of a pod of which nothing runs and nothing will: it failed if one container did.
func endPhase(pod *corev1.Pod, inits []corev1.ContainerStatus, t tally) corev1.PodPhase {
	for i := range pod.Spec.InitContainers {
		c := find(inits, pod.Spec.InitContainers[i].Name)
		if isSidecar(&pod.Spec.InitContainers[i]) {
			continue
		}
		if c == nil || c.State.Terminated == nil || c.State.Terminated.ExitCode != 0 {
			return corev1.PodFailed
		}
	}
	if t.succeeded == len(pod.Spec.Containers) {
		return corev1.PodSucceeded
	}
	return corev1.PodFailed
}

// initFailed tells whether an init container ended badly and the restart policy leaves it at that.
func initFailed(pod *corev1.Pod, inits []corev1.ContainerStatus) bool {
	for i := range pod.Spec.InitContainers {
		container := &pod.Spec.InitContainers[i]
		c := find(inits, container.Name)
		if c == nil || c.State.Terminated == nil || c.State.Terminated.ExitCode == 0 || isSidecar(container) {
			continue
		}
		if !restarts(pod, container, c.State.Terminated.ExitCode) {
			return true
		}
	}
	return false
}

// restartsAny tells whether a stopped container will be started again.
func restartsAny(pod *corev1.Pod, statuses []corev1.ContainerStatus) bool {
	for i := range pod.Spec.Containers {
		container := &pod.Spec.Containers[i]
		c := find(statuses, container.Name)
		if c == nil {
			continue
		}
		end := c.State.Terminated
		if end == nil {
			end = c.LastTerminationState.Terminated
		}
		if end != nil && restarts(pod, container, end.ExitCode) {
			return true
		}
	}
	return false
}

// restarts applies the container's own restart rules and policy, then the pod's.
func restarts(pod *corev1.Pod, c *corev1.Container, code int32) bool {
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*c.RestartPolicy)
		for _, rule := range c.RestartPolicyRules {
			if rule.ExitCodes == nil || rule.Action != corev1.ContainerRestartRuleActionRestart {
				continue
			}
			listed := false
			for _, v := range rule.ExitCodes.Values {
				listed = listed || v == code
			}
			if listed == (rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
				return true
			}
		}
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return code != 0
	}
	return true
}

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// allInitialized tells whether every init container is done: ended well, or, a sidecar, started.
func allInitialized(pod *corev1.Pod, inits []corev1.ContainerStatus) bool {
	for i := range pod.Spec.InitContainers {
		if !initialized(&pod.Spec.InitContainers[i], find(inits, pod.Spec.InitContainers[i].Name)) {
			return false
		}
	}
	return true
}

func initialized(container *corev1.Container, c *corev1.ContainerStatus) bool {
	if c == nil {
		return false
	}
	if isSidecar(container) {
		return c.Started != nil && *c.Started
	}
	return c.Ready
}

func find(statuses []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range statuses {
		if statuses[i].Name == name {
			return &statuses[i]
		}
	}
	return nil
}
