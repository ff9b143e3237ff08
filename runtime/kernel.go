package runtime

import (
	"os"
	"path/filepath"

	libcgroups "github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"minikubelet/runtime/spec"
)

// readKernel asks the kernel what it can do and has. What it does not tell stays zero.
func readKernel() spec.Kernel {
	m := spec.Kernel{Unified: libcgroups.IsCgroup2UnifiedMode(), HugePageSizes: libcgroups.HugePageSizes()}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.Memory = int64(info.Totalram) * int64(info.Unit)
	}
	m.SwapLimit = swapController(m.Unified)
	_, err := os.Stat("/sys/fs/selinux/enforce")
	m.SELinux = err == nil
	m.ThermalThrottle, _ = filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle") // the pattern is valid
	return m
}

// swapController reports whether the kernel limits swap per cgroup.
func swapController(unified bool) bool {
	file := "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
	if unified {
		own, err := libcgroups.ParseCgroupFile("/proc/self/cgroup")
		if err != nil {
			return false
		}
		file = filepath.Join("/sys/fs/cgroup", own[""], "memory.swap.max")
	}
	_, err := os.Stat(file)
	return err == nil
}
