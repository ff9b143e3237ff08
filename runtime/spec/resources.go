package spec

import (
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cgroups"
)

const (
	oomGuaranteed = -997
	oomBestEffort = 1000
)

// linuxResources turns a CPU request, CPU limit and memory limit into the CRI's numbers; a nil request is taken from
// the limit.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container_linux.go calculateLinuxResources
func (n *Node) linuxResources(cpuRequest *resource.Quantity, cpuLimit, memoryLimit *resource.Quantity) *runtimeapi.LinuxContainerResources {
	if cpuRequest == nil {
		cpuRequest = cpuLimit
	}
	out := &runtimeapi.LinuxContainerResources{
		CpuShares:          int64(cgroups.MilliCPUToShares(cpuRequest.MilliValue())),
		MemoryLimitInBytes: memoryLimit.Value(),
	}
	if n.CPUCFSQuota {
		out.CpuPeriod = n.CPUCFSQuotaPeriod.Microseconds()
		out.CpuQuota = cgroups.MilliCPUToQuota(cpuLimit.MilliValue(), n.CPUCFSQuotaPeriod)
	}
	if n.Kernel.Unified {
		out.Unified = map[string]string{}
		if !ptr.Deref(n.SingleProcessOOMKill, false) {
			out.Unified["memory.oom.group"] = "1"
		}
	}
	return out
}

// ContainerResources are a container's limits; pod level limits apply where it has none.
func (n *Node) ContainerResources(pod *corev1.Pod, container *corev1.Container) *runtimeapi.LinuxContainerResources {
	var request *resource.Quantity
	if q, ok := container.Resources.Requests[corev1.ResourceCPU]; ok {
		request = &q
	}
	cpu, memory := container.Resources.Limits.Cpu(), container.Resources.Limits.Memory()
	if shared := pod.Spec.Resources; shared != nil {
		if cpu.IsZero() {
			cpu = shared.Limits.Cpu()
		}
		if memory.IsZero() {
			memory = shared.Limits.Memory()
		}
	}
	out := n.linuxResources(request, cpu, memory)
	out.OomScoreAdj = oomScoreAdj(pod, container, n.Kernel.Memory)
	out.HugepageLimits = n.hugepageLimits(pod, container)
	switch {
	case !n.Kernel.SwapLimit:
	case n.Kernel.Unified:
		out.Unified["memory.swap.max"] = strconv.FormatInt(swapLimit(pod, container, n.Swap, n.Kernel.Memory), 10)
	default: // memory plus swap may be no more than memory
		out.MemorySwapLimitInBytes = out.MemoryLimitInBytes
	}
	if n.Kernel.Unified && n.MemoryQoS != nil {
		// The pod's limit does not count here.
		request, limit := container.Resources.Requests.Memory().Value(), container.Resources.Limits.Memory().Value()
		maps.Copy(out.Unified, n.MemoryQoS.Unified(podinfo.QOSClass(pod), request, limit))
	}
	return out
}

// SandboxResources are the pod's own and, apart from them, its overhead.
func (n *Node) SandboxResources(pod *corev1.Pod) (resources, overhead *runtimeapi.LinuxContainerResources) {
	options := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
	requests, limits := resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options)
	var request *resource.Quantity
	if q, ok := requests[corev1.ResourceCPU]; ok {
		request = &q
	}
	resources = n.linuxResources(request, limits.Cpu(), limits.Memory())
	overhead = &runtimeapi.LinuxContainerResources{}
	if pod.Spec.Overhead != nil {
		cpu := pod.Spec.Overhead.Cpu()
		overhead = n.linuxResources(cpu, cpu, pod.Spec.Overhead.Memory())
	}
	return resources, overhead
}

// hugepageLimits allows each page size of this machine as far as the container, else the pod, asks for it.
func (n *Node) hugepageLimits(pod *corev1.Pod, container *corev1.Container) []*runtimeapi.HugepageLimit {
	wanted := map[string]uint64{}
	add := func(list corev1.ResourceList) {
		for name, amount := range list {
			if size, ok := cgroups.HugepageSize(name); ok {
				wanted[size] = uint64(amount.Value())
			}
		}
	}
	if pod.Spec.Resources != nil {
		add(pod.Spec.Resources.Limits)
	}
	add(container.Resources.Limits)
	var out []*runtimeapi.HugepageLimit
	for _, size := range n.Kernel.HugePageSizes {
		out = append(out, &runtimeapi.HugepageLimit{PageSize: size, Limit: wanted[size]})
	}
	return out
}

// oomScoreAdj makes the kernel end best effort containers first, guaranteed ones last, and burstable ones the sooner
// the less of the machine's memory they asked for.
func oomScoreAdj(pod *corev1.Pod, container *corev1.Container, capacity int64) int64 {
	if pod.Spec.PriorityClassName == "system-node-critical" {
		return oomGuaranteed
	}
	switch podinfo.QOSClass(pod) {
	case corev1.PodQOSGuaranteed:
		return oomGuaranteed
	case corev1.PodQOSBestEffort:
		return oomBestEffort
	}
	if capacity <= 0 {
		return oomBestEffort - 1
	}
	share := podMemoryShare(pod)
	request := container.Resources.Requests.Memory().Value() + share
	if podinfo.IsSidecar(container) && podinfo.IsInit(pod, container.Name) {
		// A sidecar is not to be ended before the containers it serves.
		least := slices.MinFunc(pod.Spec.Containers, func(a, b corev1.Container) int {
			return a.Resources.Requests.Memory().Cmp(*b.Resources.Requests.Memory())
		})
		request = max(request, least.Resources.Requests.Memory().Value()+share)
	}
	return min(max(1000-1000*request/capacity, 1000+oomGuaranteed), oomBestEffort-1)
}

// podMemoryShare is each container's part of what the pod asks for beyond the sum of its containers.
func podMemoryShare(pod *corev1.Pod) int64 {
	if pod.Spec.Resources == nil || pod.Spec.Resources.Requests.Memory().IsZero() {
		return 0
	}
	sum := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	return (pod.Spec.Resources.Requests.Memory().Value() - sum.Memory().Value()) /
		int64(len(pod.Spec.Containers)+len(pod.Spec.InitContainers))
}
