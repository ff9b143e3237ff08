// Package resize gives running containers, and the cgroup of their pod, other resources than they started with. What has to
// be changed is decided in plan.go, which is pure; apply.go does it.
package resize

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/allocation"
	"minikubelet/runtime/cri"
)

// Change is what has to be changed. Of each resource the containers that get less come first, so that the sum does not
// exceed the pod's in between.
type Change struct {
	Memory, CPU []Container
	From, To    *corev1.ResourceRequirements // the pod's own

	restarts map[string]bool // containers that have to start anew for it
}

// Container is one running container, and what it had until now.
type Container struct {
	ID   string
	Spec *corev1.Container
	From corev1.ResourceRequirements
}

// Plan compares what the pod was allocated, which its object says, with what it has. actuated is the part of it that does
// not have its allocation yet, nil if all of it has. Containers that do not run get their resources with their start.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go computePodResizeAction, computePodLevelResourcesResizeAction
func Plan(pod *corev1.Pod, observed *cri.PodStatus, actuated *allocation.Resources) *Change {
	if actuated == nil {
		return nil
	}
	c := &Change{From: pod.Spec.Resources, To: pod.Spec.Resources, restarts: map[string]bool{}}
	if actuated.Pod != nil {
		c.From = actuated.Pod
	}
	for container := range podinfo.Containers(pod) {
		from, lags := actuated.Containers[container.Name]
		if !lags {
			from = container.Resources
		}
		c.restarts[container.Name] = slices.ContainsFunc(container.ResizePolicy, func(policy corev1.ContainerResizePolicy) bool {
			before, after := c.amounts(policy.ResourceName, container, from)
			return policy.RestartPolicy == corev1.RestartContainer && before != after
		})
		if status := observed.Container(container.Name); status != nil && status.State == cri.Running {
			c.add(Container{status.ID, container, from})
		}
	}
	return c
}

// add lists the container under each resource that it gets more or less of. The limit decides if it changes.
func (c *Change) add(container Container) {
	for name, list := range map[corev1.ResourceName]*[]Container{corev1.ResourceMemory: &c.Memory, corev1.ResourceCPU: &c.CPU} {
		before, after := c.amounts(name, container.Spec, container.From)
		more := after.limit - before.limit
		if more == 0 {
			more = after.request - before.request
		}
		switch {
		case more > 0:
			*list = append(*list, container)
		case more < 0:
			*list = slices.Insert(*list, 0, container)
		}
	}
}

// Restarts tells whether what changed of a container's resources takes effect only when it starts anew.
func (c *Change) Restarts(name string) bool { return c != nil && c.restarts[name] }

// Leave returns the change without the containers that are ended: they get their resources with their start. The pod's
// cgroup is made to fit before that.
func (c *Change) Leave(ends func(id string) bool) *Change {
	if c == nil {
		return nil
	}
	out := *c
	drop := func(list []Container) []Container {
		return slices.DeleteFunc(slices.Clone(list), func(container Container) bool { return ends(container.ID) })
	}
	out.Memory, out.CPU = drop(c.Memory), drop(c.CPU)
	return &out
}

// amounts are what a container may use, in bytes and thousandths of a CPU.
type amounts struct{ request, limit int64 }

// amounts returns what a container had and what it is to have.
func (c *Change) amounts(name corev1.ResourceName, container *corev1.Container, from corev1.ResourceRequirements) (before, after amounts) {
	return amountsOf(name, c.From, from), amountsOf(name, c.To, container.Resources)
}

// amountsOf returns a container's; where it has no limit the pod's applies.
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

// String is for the log.
func (c *Change) String() string {
	if c == nil {
		return "none"
	}
	names := func(list []Container) (out []string) {
		for _, container := range list {
			out = append(out, container.Spec.Name)
		}
		return out
	}
	return fmt.Sprintf("memory of %v, cpu of %v, then the pod", names(c.Memory), names(c.CPU))
}
