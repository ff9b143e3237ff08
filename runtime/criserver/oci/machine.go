package oci

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// ReadMachine finds out what this machine can do.
func ReadMachine() Machine {
	m := Machine{CgroupV2: cgroups.IsCgroup2UnifiedMode(), Capabilities: effectiveCapabilities()}
	if m.CgroupV2 {
		controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		m.Hugetlb = strings.Contains(" "+strings.TrimSpace(string(controllers))+" ", " hugetlb ")
		m.Swap = exists("/proc/swaps")
	} else {
		m.Hugetlb = exists("/sys/fs/cgroup/hugetlb")
		m.Swap = exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	}
	m.MinOOMScoreAdj = -1000
	if !slices.Contains(m.Capabilities, "CAP_SYS_RESOURCE") {
		adjustment, _ := os.ReadFile("/proc/self/oom_score_adj")
		m.MinOOMScoreAdj, _ = strconv.Atoi(strings.TrimSpace(string(adjustment)))
	}
	// EINVAL means no seccomp; EFAULT that the missing filter was looked at.
	m.Seccomp = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, 0, 0, 0) != unix.EINVAL
	m.SELinux = exists("/sys/fs/selinux/enforce")
	return m
}

func exists(path string) bool {
	_, err := os.Stat(filepath.Clean(path))
	return err == nil
}

// knownCapabilities are the names of those of the kernel, as CAP_CHOWN.
var knownCapabilities = sync.OnceValue(func() (names []string) {
	for _, c := range capability.ListKnown() {
		names = append(names, capabilityName(c.String()))
	}
	return names
})

// effectiveCapabilities are the names of what this process may do.
func effectiveCapabilities() (names []string) {
	process, err := capability.NewPid2(0)
	if err != nil || process.Load() != nil {
		return nil
	}
	for _, c := range capability.ListKnown() {
		if process.Get(capability.EFFECTIVE, c) {
			names = append(names, capabilityName(c.String()))
		}
	}
	return names
}
