package status

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"minikubelet/runtime/cri"
)

// setPodResources sets the resources that the pod as a whole was allocated and has: its cgroup's while it runs, else the
// allocated ones.
func (in Inputs) setPodResources(s *corev1.PodStatus) {
	options := resourcehelper.PodResourcesOptions{}
	s.AllocatedResources = resourcehelper.PodRequests(in.Pod, options)
	if s.Phase != corev1.PodRunning || in.PodResources == nil {
		s.Resources = &corev1.ResourceRequirements{Requests: s.AllocatedResources.DeepCopy(), Limits: resourcehelper.PodLimits(in.Pod, options)}
		return
	}
	r := &corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	if spec := in.Pod.Spec.Resources; spec != nil {
		maps.Copy(r.Requests, spec.Requests)
		maps.Copy(r.Limits, spec.Limits)
	}
	set := func(to, from corev1.ResourceList, name corev1.ResourceName, least int64) {
		if amount, ok := from[name]; ok {
			apply(to, nil, name, &amount, least)
		}
	}
	set(r.Requests, in.PodResources.Requests, corev1.ResourceCPU, minShares)
	set(r.Requests, in.PodResources.Requests, corev1.ResourceMemory, 0)
	set(r.Limits, in.PodResources.Limits, corev1.ResourceCPU, minMilliCPULimit)
	set(r.Limits, in.PodResources.Limits, corev1.ResourceMemory, 0)
	s.Resources = r
}

// memoryRequest corrects the one amount that no runtime knows: a container that lags behind its allocation still has the
// request it had.
func (in Inputs) memoryRequest(r *corev1.ResourceRequirements, c *cri.ContainerStatus) {
	has, lags := in.Lagging[c.Name]
	if !lags || c.State != cri.Running {
		return
	}
	if amount, ok := has.Requests[corev1.ResourceMemory]; ok && r.Requests != nil {
		r.Requests[corev1.ResourceMemory] = amount
	}
}
