package oci

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// ReadMachine finds out what this machine can do.
func ReadMachine() Machine {
	m := Machine{CgroupV2: cgroups.IsCgroup2UnifiedMode(), Capabilities: ownCapabilities()}
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
		own, _ := os.ReadFile("/proc/self/oom_score_adj")
		m.MinOOMScoreAdj, _ = strconv.Atoi(strings.TrimSpace(string(own)))
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

// ownCapabilities are the names of what this process may do.
func ownCapabilities() []string {
	status, _ := os.ReadFile("/proc/self/status")
	var names []string
	for line := range strings.Lines(string(status)) {
		hex, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		bits, _ := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		for i, name := range KnownCapabilities {
			if bits&(1<<i) != 0 {
				names = append(names, name)
			}
		}
	}
	return names
}
