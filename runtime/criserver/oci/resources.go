package oci

import (
	"fmt"
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Resources translates limits of the CRI. Those whose controller the machine lacks are left out,
// since the kubelet sends hugepage limits whether or not there are such pages.
func Resources(r *runtimeapi.LinuxContainerResources, m Machine) *specs.LinuxResources {
	resources := &specs.LinuxResources{}
	if r == nil {
		return resources
	}
	cpu := specs.LinuxCPU{
		Shares: positive(uint64(max(r.GetCpuShares(), 0))), Period: positive(uint64(max(r.GetCpuPeriod(), 0))),
		Quota: positive(r.GetCpuQuota()), Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems(),
	}
	if cpu != (specs.LinuxCPU{}) {
		resources.CPU = &cpu
	}
	memory := specs.LinuxMemory{Limit: positive(r.GetMemoryLimitInBytes())}
	if m.Swap {
		memory.Swap = positive(r.GetMemorySwapLimitInBytes())
	}
	if memory != (specs.LinuxMemory{}) {
		resources.Memory = &memory
	}
	if m.Hugetlb {
		for _, limit := range r.GetHugepageLimits() {
			resources.HugepageLimits = append(resources.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: limit.GetPageSize(), Limit: limit.GetLimit()})
		}
	}
	if m.CgroupV2 && len(r.GetUnified()) > 0 {
		resources.Unified = r.GetUnified()
	}
	return resources
}

// positive is a pointer to a value, or nil for the zero that means unset.
func positive[T int64 | uint64](value T) *T {
	if value == 0 {
		return nil
	}
	return &value
}

// MergeResources is old with what an update sets.
func MergeResources(old, update *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	merged := &runtimeapi.LinuxContainerResources{
		CpuPeriod: either(update.GetCpuPeriod(), old.GetCpuPeriod()), CpuQuota: either(update.GetCpuQuota(), old.GetCpuQuota()),
		CpuShares:              either(update.GetCpuShares(), old.GetCpuShares()),
		MemoryLimitInBytes:     either(update.GetMemoryLimitInBytes(), old.GetMemoryLimitInBytes()),
		MemorySwapLimitInBytes: either(update.GetMemorySwapLimitInBytes(), old.GetMemorySwapLimitInBytes()),
		OomScoreAdj:            either(update.GetOomScoreAdj(), old.GetOomScoreAdj()),
		CpusetCpus:             either(update.GetCpusetCpus(), old.GetCpusetCpus()), CpusetMems: either(update.GetCpusetMems(), old.GetCpusetMems()),
		HugepageLimits: old.GetHugepageLimits(), Unified: old.GetUnified(),
	}
	if len(update.GetHugepageLimits()) > 0 {
		merged.HugepageLimits = update.GetHugepageLimits()
	}
	if len(update.GetUnified()) > 0 {
		merged.Unified = map[string]string{}
		maps.Copy(merged.Unified, old.GetUnified())
		maps.Copy(merged.Unified, update.GetUnified())
	}
	return merged
}

func either[T comparable](first, second T) T {
	var zero T
	if first != zero {
		return first
	}
	return second
}

// CgroupsPath is the cgroup of a container below its pod's, in the form that runtimes expect.
func CgroupsPath(parent, id string, systemd bool) (string, error) {
	if systemd {
		slice, err := sliceName(parent)
		return slice + ":cri:" + id, err
	}
	return joinCgroup(parent, id)
}

// deviceRules close the cgroup to all devices but the listed. The runtime adds those that every
// container may use.
func deviceRules(c Container) []specs.LinuxDeviceCgroup {
	if c.Config.GetLinux().GetSecurityContext().GetPrivileged() {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for i, device := range c.Devices {
		access := "rwm"
		if i < len(c.DeviceAccess) && c.DeviceAccess[i] != "" {
			access = c.DeviceAccess[i]
		}
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: device.Type, Major: &c.Devices[i].Major, Minor: &c.Devices[i].Minor, Access: access})
	}
	return rules
}

// checkAccess refuses permissions of a device that are no subset of rwm.
func checkAccess(access string) error {
	for i, letter := range access {
		if !slices.Contains([]rune("rwm"), letter) || slices.Contains([]rune(access[:i]), letter) {
			return fmt.Errorf("%w: device permissions %q are no subset of rwm", ErrInvalid, access)
		}
	}
	return nil
}
