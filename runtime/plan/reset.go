package plan

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// Reset removes an instance, of whatever age, of a pod whose containers all begin anew in the same sandbox.
type Reset struct {
	ID, Name string
	Kill     bool // it may be running
}

// planReset plans the removal of all containers if one of them ended so that its rule asks for it, and reports
// whether it did. What caused it goes last: as long as it is there the reset is not over, even for the next kubelet.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go getContainersToReset
func (p *planner) planReset() bool {
	cause := func(container *corev1.Container, status *cri.ContainerStatus) bool {
		return status != nil && status.State == cri.Exited &&
			podinfo.MatchingRule(container, status.ExitCode) == corev1.ContainerRestartRuleActionRestartAllContainers
	}
	var causes, others []Reset
	found := false
	for _, list := range [][]corev1.Container{p.Pod.Spec.Containers, p.Pod.Spec.InitContainers} {
		for i := range list {
			container := &list[i]
			found = found || cause(container, p.Observed.Container(container.Name))
			for _, status := range p.Observed.Containers {
				action := Reset{ID: status.ID, Name: status.Name, Kill: status.State != cri.Exited && status.State != cri.Created}
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
