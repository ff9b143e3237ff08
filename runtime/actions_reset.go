package runtime

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// resetAction removes an instance, of whatever age, of a pod whose containers all begin anew in the same sandbox.
type resetAction struct {
	ID, Name string
	Kill     bool // it may be running
}

const reasonRestartAll = "RestartAllContainers"

// planReset plans the removal of all containers if one of them ended so that its rule asks for it, and reports
// whether it did. What caused it goes last: as long as it is there the reset is not over, even for the next kubelet.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go getContainersToReset
func (p *planner) planReset() bool {
	cause := func(container *corev1.Container, status *cri.ContainerStatus) bool {
		return status != nil && status.State == exited &&
			podinfo.MatchingRule(container, status.ExitCode) == corev1.ContainerRestartRuleActionRestartAllContainers
	}
	var causes, others []resetAction
	found := false
	for _, list := range [][]corev1.Container{p.Pod.Spec.Containers, p.Pod.Spec.InitContainers} {
		for i := range list {
			container := &list[i]
			found = found || cause(container, p.Observed.Container(container.Name))
			for _, status := range p.Observed.Containers {
				action := resetAction{ID: status.ID, Name: status.Name, Kill: status.State != exited && status.State != created}
				switch {
				case status.Name != container.Name:
				case cause(container, status):
					causes = append(causes, action)
				default:
					others = append(others, action)
				}
			}
		}
	}
	if !found || p.Pod.DeletionTimestamp != nil {
		return false
	}
	slices.Reverse(causes) // of one container the newest counts
	p.Reset = append(others, causes...)
	return true
}
