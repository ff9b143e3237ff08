package measure

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Node returns what the node uses: the whole machine, or, where the node is a container as kind's are, its container. Then
// the memory that is available is what both the container's limit and the machine leave.
func (m *Machine) Node() (Usage, error) {
	u, err := m.wholeMachine()
	if err != nil {
		return u, err
	}
	container, err := m.container()
	if err != nil || container == nil {
		return u, err
	}
	available := *u.Memory.AvailableBytes
	if limit := container.Memory.AvailableBytes; limit != nil {
		available = min(available, *limit)
	}
	working := *container.Memory.WorkingSetBytes
	total := *u.Memory.AvailableBytes + *u.Memory.WorkingSetBytes
	container.Memory.AvailableBytes = new(min(available, total-min(total, working)))
	if s := container.Swap; s != nil && (s.SwapAvailableBytes == nil || *s.SwapAvailableBytes > *u.Swap.SwapAvailableBytes) {
		s.SwapAvailableBytes = u.Swap.SwapAvailableBytes
	}
	if container.CPU == nil {
		container.CPU = u.CPU
	}
	return *container, nil
}

// Memory returns how much memory and swap the node has in all, in bytes.
func (m *Machine) Memory() (memory, swap int64, err error) {
	info, err := m.proc.Meminfo()
	if err != nil || info.MemTotalBytes == nil {
		return 0, 0, fmt.Errorf("read the machine's memory: %w", errors.Join(err, errNoMemTotal))
	}
	memory = int64(*info.MemTotalBytes)
	container, err := m.container()
	if err != nil {
		return 0, 0, err
	}
	if container != nil && container.limit > 0 {
		memory = min(memory, container.limit)
	}
	return memory, int64(value(info.SwapTotalBytes)), nil
}

var errNoMemTotal = errors.New("/proc/meminfo has no MemTotal")

func value(n *uint64) uint64 {
	if n == nil {
		return 0
	}
	return *n
}

// wholeMachine reads what the machine uses. Its memory is the kernel's own account: the root cgroup's leaves out what the
// kernel uses itself, and cgroup v2 has none.
func (m *Machine) wholeMachine() (Usage, error) {
	now := metav1.NewTime(time.Now())
	info, err := m.proc.Meminfo()
	if err != nil || value(info.MemTotalBytes) == 0 {
		return Usage{}, fmt.Errorf("read the machine's memory: %w", errors.Join(err, errNoMemTotal))
	}
	total, swap := *info.MemTotalBytes, value(info.SwapTotalBytes)
	used := total - min(total, value(info.MemFreeBytes))
	working := used - min(used, value(info.InactiveFileBytes))
	u := Usage{
		Memory: &statsapi.MemoryStats{
			Time: now, UsageBytes: &used, WorkingSetBytes: &working, AvailableBytes: new(total - working), RSSBytes: new(value(info.AnonPagesBytes)), PSI: m.psi("memory"),
		},
		Swap: &statsapi.SwapStats{Time: now, SwapAvailableBytes: new(value(info.SwapFreeBytes)), SwapUsageBytes: new(swap - min(swap, value(info.SwapFreeBytes)))},
	}
	u.Memory.PageFaults, u.Memory.MajorPageFaults = m.pageFaults()
	if psi := m.psi("io"); psi != nil {
		u.IO = &statsapi.IOStats{Time: now, PSI: psi}
	}
	nanos := m.stats("/", cpuOnly).CpuStats.CpuUsage.TotalUsage
	if nanos == 0 { // the root has no cpuacct, or no cpu.stat before Linux 5.? on v2
		stat, err := m.proc.Stat()
		if err != nil {
			return Usage{}, fmt.Errorf("read the machine's CPU time: %w", err)
		}
		t := stat.CPUTotal
		nanos = uint64((t.User + t.Nice + t.System + t.IRQ + t.SoftIRQ + t.Steal) * 1e9)
	}
	u.CPU = &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: &nanos, PSI: m.psi("cpu")}
	return u, nil
}

// pageFaults counts those of all processes since the machine was started, and the major ones among them.
func (m *Machine) pageFaults() (all, major *uint64) {
	all, major = new(uint64), new(uint64)
	for line := range strings.Lines(m.Read("proc/vmstat")) {
		key, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if into := map[string]*uint64{"pgfault": all, "pgmajfault": major}[key]; into != nil {
			*into, _ = strconv.ParseUint(text, 10, 64) // the kernel writes a number
		}
	}
	return all, major
}

// container reads what the node uses that is a container; nil on the machine itself. In a container the hierarchies begin
// with the container's own cgroup, which has files that the machine's root has not.
func (m *Machine) container() (*Usage, error) {
	dir, unlike := m.mounts[""], "memory.current"
	if !m.unified {
		dir, unlike = m.mounts["memory"], "release_agent"
	}
	_, err := os.Stat(filepath.Join(dir, unlike))
	if isRoot := errors.Is(err, fs.ErrNotExist) == m.unified; isRoot || dir == "" {
		return nil, nil
	}
	u := m.Cgroup("/")
	if u.Memory == nil {
		return nil, fmt.Errorf("read the memory of the node's cgroup, %s", dir)
	}
	u.Processes = nil
	return &u, nil
}
