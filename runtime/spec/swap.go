package spec

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
)

// swaps tells whether a container may use swap where there is some: one of a burstable pod that is not critical, if it asks for
// memory, and not for as much as its limit.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container_linux.go GetContainerSwapBehavior
func swaps(pod *corev1.Pod, container *corev1.Container) bool {
	request, limit := container.Resources.Requests.Memory(), container.Resources.Limits.Memory()
	return podinfo.QOSClass(pod) == corev1.PodQOSBurstable && !podinfo.IsCritical(pod) && request.Cmp(*limit) != 0
}

// swapLimit is how many bytes of swap a container may use. Its part of the swap is its request's part of the memory.
func swapLimit(pod *corev1.Pod, container *corev1.Container, swap, memory int64) int64 {
	if swap <= 0 || memory <= 0 || !swaps(pod, container) {
		return 0
	}
	return int64(float64(container.Resources.Requests.Memory().Value()) / float64(memory) * float64(swap))
}

// Infeasible is why a pod cannot get other resources while it runs, "" if it can: what a container that swaps requests of memory
// changes with its restart only.
//
// Upstream: pkg/kubelet/allocation/handlers.go disallowResizeForSwappableContainers
func (n *Node) Infeasible(wanted, has *corev1.Pod) string {
	if n.Swap <= 0 || !n.Kernel.SwapLimit || !n.Kernel.Unified {
		return ""
	}
	for container := range podinfo.Containers(wanted) {
		before := podinfo.Container(has, container.Name)
		if before == nil || container.Resources.Requests.Memory().Equal(*before.Resources.Requests.Memory()) {
			continue
		}
		restarts := slices.ContainsFunc(before.ResizePolicy, func(p corev1.ContainerResizePolicy) bool {
			return p.ResourceName == corev1.ResourceMemory && p.RestartPolicy == corev1.RestartContainer
		})
		if !restarts && (swaps(wanted, container) || swaps(has, before)) {
			return "In-place resize of containers with swap is not supported."
		}
	}
	return ""
}
