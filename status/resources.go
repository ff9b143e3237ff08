package status

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// The least that cgroups can express. Of a request for less the runtime's answer does not tell how much it was.
const (
	minShares        = 2
	minMilliCPULimit = 10
)

// resources are the spec's with what the runtime says it applied to a running container. What the runtime does not
// say stays as it was said of the same instance before.
func resources(spec *corev1.Container, c *cri.ContainerStatus, old *corev1.ResourceRequirements) *corev1.ResourceRequirements {
	r := spec.Resources.DeepCopy()
	if c.State != cri.Running {
		return r
	}
	if old == nil {
		old = &corev1.ResourceRequirements{}
	}
	linux := c.Resources.GetLinux()
	if r.Limits != nil {
		apply(r.Limits, old.Limits, corev1.ResourceCPU, cpuLimit(linux), minMilliCPULimit)
		apply(r.Limits, old.Limits, corev1.ResourceMemory, memoryLimit(linux), 0)
	}
	if r.Requests != nil {
		apply(r.Requests, old.Requests, corev1.ResourceCPU, cpuRequest(linux), minShares)
	}
	return r
}

// apply sets an amount that the runtime says. A CPU amount at or below the least that cgroups can express does not replace one
// that is as small.
func apply(list, old corev1.ResourceList, name corev1.ResourceName, actual *resource.Quantity, least int64) {
	if actual == nil {
		if before, ok := old[name]; ok {
			list[name] = before.DeepCopy()
		}
		return
	}
	wanted := list[name]
	if least == 0 || actual.MilliValue() > least || wanted.MilliValue() > least {
		list[name] = *actual
	}
}

func cpuLimit(linux *runtimeapi.LinuxContainerResources) *resource.Quantity {
	if linux.GetCpuPeriod() <= 0 || linux.GetCpuQuota() <= 0 {
		return nil
	}
	return resource.NewMilliQuantity(linux.GetCpuQuota()*1000/linux.GetCpuPeriod(), resource.DecimalSI)
}

func memoryLimit(linux *runtimeapi.LinuxContainerResources) *resource.Quantity {
	if linux.GetMemoryLimitInBytes() <= 0 {
		return nil
	}
	return resource.NewQuantity(linux.GetMemoryLimitInBytes(), resource.BinarySI)
}

// cpuRequest translates CPU shares, 1024 of which are one CPU.
func cpuRequest(linux *runtimeapi.LinuxContainerResources) *resource.Quantity {
	if linux.GetCpuShares() < minShares {
		return nil
	}
	return resource.NewMilliQuantity((linux.GetCpuShares()*1000+1023)/1024, resource.DecimalSI)
}

// volumeMounts tell how each volume is mounted.
func (in Inputs) volumeMounts(spec *corev1.Container) []corev1.VolumeMountStatus {
	var mounts []corev1.VolumeMountStatus
	for i := range spec.VolumeMounts {
		m := &spec.VolumeMounts[i]
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			s.RecursiveReadOnly = new(corev1.RecursiveReadOnlyDisabled)
			if in.RecursiveReadOnly && asksRecursive(m) {
				*s.RecursiveReadOnly = corev1.RecursiveReadOnlyEnabled
			}
		}
		mounts = append(mounts, s)
	}
	return mounts
}

func user(u *runtimeapi.ContainerUser) *corev1.ContainerUser {
	linux := u.GetLinux()
	if linux == nil {
		return nil
	}
	return &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{
		UID: linux.GetUid(), GID: linux.GetGid(), SupplementalGroups: linux.GetSupplementalGroups(),
	}}
}

// AsksRecursiveReadOnly tells whether a container asks for a mount that is read-only with all below.
func AsksRecursiveReadOnly(pod *corev1.Pod) bool {
	for container := range podinfo.AllContainers(pod) {
		for i := range container.VolumeMounts {
			if asksRecursive(&container.VolumeMounts[i]) {
				return true
			}
		}
	}
	return false
}

func asksRecursive(m *corev1.VolumeMount) bool {
	return ptr.Deref(m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled) != corev1.RecursiveReadOnlyDisabled
}
