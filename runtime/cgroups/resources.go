package cgroups

import (
	"strconv"
	"strings"
	"time"

	libcgroups "github.com/opencontainers/cgroups"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	podinfo "minikubelet/config/pod"
)

const (
	minShares    = 2
	maxShares    = 262144
	sharesPerCPU = 1024
	minQuota     = 1000 // microseconds, the kernel's floor
	// unboundedHugepages is what the QoS tiers get: their pods are limited one by one.
	unboundedHugepages = 1 << 62
)

// MilliCPUToShares converts a CPU amount in thousandths of a core to cgroup v1 cpu.shares.
// Zero becomes the kernel's minimum, 2, and never the kernel's default of 1024.
func MilliCPUToShares(milli int64) uint64 {
	return uint64(min(max(milli*sharesPerCPU/1000, minShares), maxShares))
}

// MilliCPUToQuota converts a CPU limit in thousandths of a core to a CFS quota in microseconds per period.
// Zero, "no limit", stays zero.
func MilliCPUToQuota(milli int64, period time.Duration) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*period.Microseconds()/1000, minQuota)
}

// sharesToWeight maps cpu.shares [2, 262144] to the kubelet's cpu.weight [1, 10000].
func sharesToWeight(shares uint64) uint64 {
	if shares >= maxShares {
		return 10000
	}
	return 1 + (max(shares, minShares)-minShares)*9999/(maxShares-minShares)
}

// limits is what one cgroup is given; a nil field leaves the kernel's value alone.
type limits struct {
	Size
	pids    *int64            // processes
	huge    map[string]int64  // page size as the kernel names it ("2MB") -> bytes
	unified map[string]string // files of cgroup v2 and what goes into them
}

// MemoryReservation keeps memory from being reclaimed: of guaranteed pods whatever happens, of burstable ones as long as
// there is other memory.
func MemoryReservation(class corev1.PodQOSClass, bytes int64) map[string]string {
	file := "memory.low"
	if class == corev1.PodQOSGuaranteed {
		file = "memory.min"
	}
	return map[string]string{file: strconv.FormatInt(bytes, 10)}
}

// memoryRequests is the sum of what the pods of a class ask for.
func memoryRequests(pods []*corev1.Pod, class corev1.PodQOSClass) (bytes int64) {
	for _, pod := range pods {
		if podinfo.QOSClass(pod) == class {
			requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
			bytes += requests.Memory().Value()
		}
	}
	return bytes
}

// MemoryLimit is how much memory a pod's cgroup allows it, in bytes; nil for no limit.
func MemoryLimit(pod *corev1.Pod) *int64 { return Options{}.podLimits(pod).Memory }

// podLimits works out a pod's cgroup from its spec.
func (o Options) podLimits(pod *corev1.Pod) limits {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	sums := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	// One container without a limit makes the sum meaningless as a limit for the pod.
	cpuDeclared, memoryDeclared := true, true
	for container := range podinfo.Containers(pod) {
		cpuDeclared = cpuDeclared && !container.Resources.Limits.Cpu().IsZero()
		memoryDeclared = memoryDeclared && !container.Resources.Limits.Memory().IsZero()
	}
	if pod.Spec.Resources != nil && resourcehelper.IsPodLevelResourcesSet(pod) {
		cpuDeclared = cpuDeclared || !pod.Spec.Resources.Limits.Cpu().IsZero()
		memoryDeclared = memoryDeclared || !pod.Spec.Resources.Limits.Memory().IsZero()
	}

	class := podinfo.QOSClass(pod)
	shares := MilliCPUToShares(requests.Cpu().MilliValue())
	if class == corev1.PodQOSBestEffort {
		shares = minShares
	}
	out := limits{Size: Size{Shares: &shares}, huge: hugepages(requests)}
	if class == corev1.PodQOSGuaranteed || (class == corev1.PodQOSBurstable && cpuDeclared) {
		quota := int64(-1)
		if o.CPUCFSQuota {
			quota = MilliCPUToQuota(sums.Cpu().MilliValue(), o.CPUCFSQuotaPeriod)
		}
		out.Quota = &quota
	}
	if class == corev1.PodQOSGuaranteed || (class == corev1.PodQOSBurstable && memoryDeclared) {
		out.Memory = new(sums.Memory().Value())
	}
	if o.PodPidsLimit > 0 {
		out.pids = new(o.PodPidsLimit)
	}
	if memory := requests.Memory().Value(); o.ReserveMemory && memory > 0 {
		out.unified = MemoryReservation(class, memory)
	}
	return out
}

// nodeLimits is what all pods together may use: allocatable where the node enforces it, else the machine's capacity.
func (o Options) nodeLimits() limits {
	list := o.Capacity
	if o.LimitPods {
		list = o.Allocatable
	}
	return limitsOf(list)
}

// limitsOf turns amounts into limits; CPU becomes shares.
func limitsOf(list corev1.ResourceList) limits {
	out := limits{huge: hugepages(list)}
	if cpu, ok := list[corev1.ResourceCPU]; ok {
		out.Shares = new(MilliCPUToShares(cpu.MilliValue()))
	}
	if memory, ok := list[corev1.ResourceMemory]; ok {
		out.Memory = new(memory.Value())
	}
	if pids, ok := list["pid"]; ok {
		out.pids = new(pids.Value())
	}
	return out
}

// burstableShares is the burstable tier's cpu.shares: the sum of what its pods ask for.
func burstableShares(pods []*corev1.Pod) uint64 {
	var milli int64
	for _, pod := range pods {
		if podinfo.QOSClass(pod) == corev1.PodQOSBurstable {
			requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
			milli += requests.Cpu().MilliValue()
		}
	}
	return MilliCPUToShares(milli)
}

// hugepages picks the hugepages-<size> amounts of a list and, since a pod may use no page size it did not ask for,
// sets every other size of this machine to 0.
func hugepages(list corev1.ResourceList) map[string]int64 {
	out := make(map[string]int64)
	for _, size := range libcgroups.HugePageSizes() {
		out[size] = 0
	}
	for name, amount := range list {
		if size, ok := HugepageSize(name); ok {
			out[size] += amount.Value()
		}
	}
	return out
}

// HugepageSize turns the resource name hugepages-2Mi into the kernel's name for that page size, 2MB.
// It reports false for every other resource name.
func HugepageSize(name corev1.ResourceName) (string, bool) {
	text, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
	if !ok {
		return "", false
	}
	size, err := resource.ParseQuantity(text)
	if err != nil || size.Sign() <= 0 {
		return "", false
	}
	bytes, i := size.Value(), 0
	for units := [...]string{"B", "KB", "MB", "GB", "TB"}; ; bytes, i = bytes>>10, i+1 {
		if bytes < 1024 || i == len(units)-1 {
			return strconv.FormatInt(bytes, 10) + units[i], true
		}
	}
}
