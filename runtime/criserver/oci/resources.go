package oci

import (
	"cmp"
	"path"
	"strings"

	"github.com/opencontainers/cgroups/systemd"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
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
		memory.Swap = positive(cmp.Or(r.GetMemorySwapLimitInBytes(), r.GetMemoryLimitInBytes())) // memory and swap together
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
	merged := &runtimeapi.LinuxContainerResources{}
	proto.Merge(merged, old)
	if len(update.GetHugepageLimits()) > 0 {
		merged.HugepageLimits = nil // the limits of an update are all that there are to be
	}
	proto.Merge(merged, update)
	return merged
}

// CgroupsPath is the cgroup of a container below its pod's, in the form that runtimes expect.
func CgroupsPath(parent, id string, systemd bool) (string, error) {
	if systemd {
		slice := path.Base(parent) // systemd knows the rest by the dashes in it
		if !strings.HasSuffix(slice, ".slice") || strings.ContainsAny(slice, ":\x00") {
			return "", invalid("cgroup parent %q is no systemd slice", parent)
		}
		return slice + ":cri:" + id, nil
	}
	if strings.Contains("/"+parent+"/", "/../") || strings.ContainsRune(parent, 0) {
		return "", invalid("cgroup parent %q", parent)
	}
	return path.Join("/", parent, id), nil
}

// ExpandSlice is the path of a slice: a-b.slice is a.slice/a-b.slice.
func ExpandSlice(slice string) string {
	expanded, err := systemd.ExpandSlice(path.Base(slice))
	if err != nil {
		return path.Join("/", slice) // systemd makes none of that name
	}
	return expanded
}

// CgroupDir is the path of a container's cgroup below the cgroup file systems, by what CgroupsPath made for it.
func CgroupDir(cgroupsPath string) string {
	slice, rest, ok := strings.Cut(cgroupsPath, ":")
	if !ok {
		return cgroupsPath
	}
	prefix, id, _ := strings.Cut(rest, ":")
	return path.Join(ExpandSlice(slice), prefix+"-"+id+".scope")
}
