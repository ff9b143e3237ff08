package stats

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"minikubelet/kubelet/nodecgroup"
)

// node is what the whole machine uses, or, in a container, the container. The machine's memory is the kernel's own account
// of it: the root cgroup's leaves out what the kernel uses itself, and v2 has none.
func (m *machine) node() (usage, error) {
	machine, err := m.whole()
	if err != nil {
		return usage{}, err
	}
	container, err := nodecgroup.Memory(m.root)
	if err != nil || container == nil {
		return machine, err
	}
	u := m.cgroup("/")
	if u.memory == nil {
		return machine, nil
	}
	total := *machine.memory.AvailableBytes + *machine.memory.WorkingSetBytes
	total = min(total, uint64(container.Limit))
	u.memory.AvailableBytes = new(min(total-min(total, *u.memory.WorkingSetBytes), *machine.memory.AvailableBytes))
	if u.swap != nil {
		left := *machine.swap.SwapAvailableBytes
		if u.swap.SwapAvailableBytes != nil {
			left = min(left, *u.swap.SwapAvailableBytes)
		}
		u.swap.SwapAvailableBytes = &left
	}
	u.processes = nil
	if u.cpu == nil {
		u.cpu = machine.cpu
	}
	return u, nil
}

// whole is what the machine uses.
func (m *machine) whole() (usage, error) {
	now := metav1.NewTime(time.Now())
	text, err := m.read("proc/meminfo")
	if err != nil {
		return usage{}, fmt.Errorf("read the machine's memory: %w", err)
	}
	info := parseKeyed(text)
	total := info["MemTotal"]
	if total == 0 {
		return usage{}, fmt.Errorf("read the machine's memory: /proc/meminfo has no MemTotal")
	}
	used := total - min(total, info["MemFree"])
	working := used - min(used, info["Inactive(file)"])
	text, _ = m.read("proc/vmstat") // page faults are left out without it
	vm := parseKeyed(text)
	u := usage{
		memory: &statsapi.MemoryStats{
			Time: now, UsageBytes: &used, WorkingSetBytes: &working, AvailableBytes: new(total - working), RSSBytes: new(info["AnonPages"]),
			PageFaults: new(vm["pgfault"]), MajorPageFaults: new(vm["pgmajfault"]), PSI: m.pressureFile("proc/pressure/memory"),
		},
		swap: &statsapi.SwapStats{
			Time: now, SwapAvailableBytes: new(info["SwapFree"]), SwapUsageBytes: new(info["SwapTotal"] - min(info["SwapTotal"], info["SwapFree"])),
		},
	}
	nanos := m.cpu("/")
	if nanos == nil {
		text, err := m.read("proc/stat")
		if err != nil {
			return usage{}, fmt.Errorf("read the machine's CPU time: %w", err)
		}
		busy, _ := parseProcStat(text)
		nanos = &busy
	}
	u.cpu = &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: nanos, PSI: m.pressureFile("proc/pressure/cpu")}
	if psi := m.pressureFile("proc/pressure/io"); psi != nil {
		u.io = &statsapi.IOStats{Time: now, PSI: psi}
	}
	return u, nil
}

// boot is when the machine was started; zero if it does not tell.
func (m *machine) boot() metav1.Time {
	text, err := m.read("proc/stat")
	if err != nil {
		return metav1.Time{}
	}
	if _, at := parseProcStat(text); at > 0 {
		return metav1.Unix(at, 0)
	}
	return metav1.Time{}
}

// rlimit is how many processes there may be, and are.
//
// Upstream: pkg/kubelet/stats/pidlimit/pidlimit_linux.go Stats
func (m *machine) rlimit() *statsapi.RlimitStats {
	out := &statsapi.RlimitStats{Time: metav1.Now()}
	for _, file := range []string{"proc/sys/kernel/pid_max", "proc/sys/kernel/threads-max"} {
		text, err := m.read(file)
		if err != nil {
			continue
		}
		if n, err := parseNumber(text); err == nil && n <= math.MaxInt64 && (out.MaxPID == nil || int64(n) < *out.MaxPID) {
			out.MaxPID = new(int64(n))
		}
	}
	if text, err := m.read("proc/loadavg"); err == nil {
		if n, err := parseLoadavg(text); err == nil {
			out.NumOfRunningProcesses = &n
		}
	}
	return out
}

// cores counts the lines of /proc/stat that stand for one CPU each.
func (m *machine) cores() int {
	text, err := m.read("proc/stat")
	if err != nil {
		return 0
	}
	n := 0
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "cpu"); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			n++
		}
	}
	return n
}

// network is the traffic of the namespace that a process is in; proc is "proc/self" or "proc/123". The interface of
// the default route is the one that stands for all.
func (m *machine) network(proc string) *statsapi.NetworkStats {
	text, err := m.read(filepath.Join(proc, "net/dev"))
	if err != nil {
		return nil
	}
	out := &statsapi.NetworkStats{Time: metav1.Now(), Interfaces: parseNetDev(text)}
	text, _ = m.read(filepath.Join(proc, "net/route"))
	name := parseDefaultRoute(text)
	for _, i := range out.Interfaces {
		if i.Name == name || name == "" && i.Name == "eth0" {
			out.InterfaceStats = i
		}
	}
	return out
}

// podNetwork is the traffic of the pod whose cgroup is given, nil if it is on the node's network.
func (m *machine) podNetwork(cgroup string) *statsapi.NetworkStats {
	pid := m.anyProcess(cgroup)
	if pid == 0 {
		return nil
	}
	own, err := os.Readlink(filepath.Join(m.root, "proc/self/ns/net"))
	if err != nil {
		return nil
	}
	proc := fmt.Sprintf("proc/%d", pid)
	if theirs, err := os.Readlink(filepath.Join(m.root, proc, "ns/net")); err != nil || theirs == own {
		return nil
	}
	return m.network(proc)
}

// anyProcess is a process in a cgroup directly below the given one, 0 for none.
func (m *machine) anyProcess(cgroup string) int {
	entries, err := os.ReadDir(filepath.Join(m.root, m.file("memory", cgroup, "")))
	if err != nil {
		return 0
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		text, err := m.read(m.file("memory", filepath.Join(cgroup, entry.Name()), "cgroup.procs"))
		if err != nil {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(text, &pid); err == nil && pid > 0 {
			return pid
		}
	}
	return 0
}

// filesystem is the state of the filesystem that has the path; nil if it cannot be asked.
func filesystem(path string) *statsapi.FsStats {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return nil
	}
	block := uint64(s.Bsize)
	return &statsapi.FsStats{
		Time: metav1.Now(), CapacityBytes: new(s.Blocks * block), AvailableBytes: new(s.Bavail * block), UsedBytes: new((s.Blocks - s.Bfree) * block),
		Inodes: new(s.Files), InodesFree: new(s.Ffree), InodesUsed: new(s.Files - min(s.Files, s.Ffree)),
	}
}
