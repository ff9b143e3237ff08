package runtime

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/runtime/allocation"
)

// resizeAction gives running containers, and the pod's cgroup, what the pod was allocated. Of each kind the containers that
// get less come first, so that the sum does not exceed the pod's in between.
type resizeAction struct {
	Memory, CPU []containerResize
	From, To    *corev1.ResourceRequirements // the pod's own
}

// containerResize is one running container, and what it had until now.
type containerResize struct {
	ID        string
	Container *corev1.Container
	From      corev1.ResourceRequirements
}

const reasonResized = "Resized"

// amounts are what a container may use, in bytes and thousandths of a CPU.
type amounts struct{ request, limit int64 }

// amountsOf are a container's; where it has no limit the pod's applies.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go containerResourcesFromRequirements
func amountsOf(name corev1.ResourceName, pod *corev1.ResourceRequirements, container corev1.ResourceRequirements) amounts {
	limit := container.Limits[name]
	if limit.IsZero() && pod != nil {
		limit = pod.Limits[name]
	}
	request := container.Requests[name]
	if name == corev1.ResourceCPU {
		return amounts{request.MilliValue(), limit.MilliValue()}
	}
	return amounts{request.Value(), limit.Value()}
}

// change is above zero if there is to be more, below if less. The limit decides if it changes.
func (from amounts) change(to amounts) int64 {
	if from.limit != to.limit {
		return to.limit - from.limit
	}
	return to.request - from.request
}

// had returns what a container and its pod have until now, and whether anything of them lags.
func had(pod *corev1.Pod, container *corev1.Container, actuated *allocation.Resources) (of *corev1.ResourceRequirements, own corev1.ResourceRequirements, lags bool) {
	of, own = pod.Spec.Resources, container.Resources
	if actuated == nil {
		return of, own, false
	}
	if actuated.Pod != nil {
		of, lags = actuated.Pod, true
	}
	if r, ok := actuated.Containers[container.Name]; ok {
		own, lags = r, true
	}
	return of, own, lags
}

// resizeRestarts tells whether what changed of a container's resources takes effect only when it starts anew.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go computePodResizeAction
func (p *planner) resizeRestarts(container *corev1.Container) bool {
	of, own, lags := had(p.Pod, container, p.Actuated)
	return lags && slices.ContainsFunc(container.ResizePolicy, func(policy corev1.ContainerResizePolicy) bool {
		return policy.RestartPolicy == corev1.RestartContainer &&
			amountsOf(policy.ResourceName, of, own) != amountsOf(policy.ResourceName, p.Pod.Spec.Resources, container.Resources)
	})
}

// planResize plans for the containers that go on running with other resources than before. Those that are started get
// theirs with it, but the pod's cgroup has to be made to fit first.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go computePodResizeAction and computePodLevelResourcesResizeAction
func (p *planner) planResize() {
	if p.Actuated == nil || p.KillPod != "" {
		return
	}
	action := &resizeAction{From: p.Pod.Spec.Resources, To: p.Pod.Spec.Resources}
	if p.Actuated.Pod != nil {
		action.From = p.Actuated.Pod
	}
	for _, list := range [][]corev1.Container{p.Pod.Spec.InitContainers, p.Pod.Spec.Containers} {
		for i := range list {
			p.planContainerResize(action, &list[i])
		}
	}
	p.Resize = action
}

func (p *planner) planContainerResize(action *resizeAction, container *corev1.Container) {
	of, own, lags := had(p.Pod, container, p.Actuated)
	status := p.Observed.Container(container.Name)
	if !lags || status == nil || status.State != running || p.kills(status.ID) {
		return
	}
	resize := containerResize{ID: status.ID, Container: container, From: own}
	for name, list := range map[corev1.ResourceName]*[]containerResize{corev1.ResourceMemory: &action.Memory, corev1.ResourceCPU: &action.CPU} {
		change := amountsOf(name, of, own).change(amountsOf(name, p.Pod.Spec.Resources, container.Resources))
		switch {
		case change > 0:
			*list = append(*list, resize)
		case change < 0:
			*list = slices.Insert(*list, 0, resize)
		}
	}
}

func (p *planner) kills(id string) bool {
	return slices.ContainsFunc(p.Kill, func(k killAction) bool { return k.ID == id })
}

// String is for the log.
func (a *resizeAction) String() string {
	if a == nil {
		return "none"
	}
	names := func(list []containerResize) (out []string) {
		for _, c := range list {
			out = append(out, c.Container.Name)
		}
		return out
	}
	return fmt.Sprintf("memory of %v, cpu of %v, then the pod", names(a.Memory), names(a.CPU))
}
