package measure

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	v1 "github.com/opencontainers/cgroups/fs"
	v2 "github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/cgroups/fscommon"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const (
	cpuOnly = cgroups.CPU
	all     = cgroups.CPU | cgroups.Memory | cgroups.Pids | cgroups.IO
)

// controllers of cgroup v1, with what is read of each.
var controllers = []struct {
	id   cgroups.Controller
	name string
	read func(dir string, into *cgroups.Stats) error
}{
	{cgroups.CPU, "cpuacct", (&v1.CpuacctGroup{}).GetStats}, {cgroups.CPU, "cpu", (&v1.CpuGroup{}).GetStats}, {cgroups.Memory, "memory", (&v1.MemoryGroup{}).GetStats},
	{cgroups.Pids, "pids", (&v1.PidsGroup{}).GetStats}, {cgroups.IO, "blkio", (&v1.BlkioGroup{}).GetStats},
}

// Dir returns the directory of a cgroup, given as its path in the hierarchies, for a controller of cgroup v1. On v2 all
// controllers have the same. It returns "" where the controller has no hierarchy.
func (m *Machine) Dir(controller, cgroup string) string {
	if m.unified {
		controller = ""
	}
	if m.mounts[controller] == "" {
		return ""
	}
	return filepath.Join(m.mounts[controller], cgroup)
}

// Number reads a file of one number of a cgroup, nil if there is none. No limit, "max", is the largest number.
func (m *Machine) Number(controller, cgroup, file string) *uint64 {
	n, err := fscommon.GetCgroupParamUint(m.Dir(controller, cgroup), file)
	if err != nil {
		return nil
	}
	return &n
}

// Stats reads all that the kernel tells of a cgroup. What it does not tell is zero.
func (m *Machine) Stats(cgroup string) *cgroups.Stats { return m.stats(cgroup, all) }

func (m *Machine) stats(cgroup string, which cgroups.Controller) *cgroups.Stats {
	out := cgroups.NewStats()
	if m.unified {
		manager, err := v2.NewManager(&cgroups.Cgroup{}, m.Dir("", cgroup))
		if err != nil {
			return out
		}
		// The error is of one file, and what was read of others is in the answer.
		if stats, _ := manager.Stats(&cgroups.StatsOptions{Controllers: which}); stats != nil {
			out = stats
		}
		return out
	}
	for _, c := range controllers {
		if dir := m.Dir(c.name, cgroup); dir != "" && c.id&which != 0 {
			_ = c.read(dir, out) // what cannot be read stays zero
		}
	}
	return out
}

// Cgroup returns what a cgroup uses, with those below it.
//
// The working set is what is used without the file cache that has not been touched lately, as cadvisor has it:
// Upstream: vendor/github.com/google/cadvisor/container/libcontainer/handler.go setMemoryStats
func (m *Machine) Cgroup(path string) Usage {
	if _, err := os.Stat(m.anyDir(path)); err != nil {
		return Usage{}
	}
	now := metav1.NewTime(time.Now())
	s := m.Stats(path)
	var u Usage
	// On v1 the hierarchy of CPU time need not have the cgroup that the one of memory has.
	if _, err := os.Stat(m.Dir("cpuacct", path)); err == nil {
		u.CPU = &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: &s.CpuStats.CpuUsage.TotalUsage, PSI: nanoseconds(s.CpuStats.PSI)}
	}
	if n := s.PidsStats.Current; n > 0 {
		u.Processes = &n
	}
	if psi := nanoseconds(s.BlkioStats.PSI); psi != nil {
		u.IO = &statsapi.IOStats{Time: now, PSI: psi}
	}
	mem := s.MemoryStats
	if len(mem.Stats) == 0 || mem.Usage.Usage == 0 && !m.empty(path) { // no such controller, or something could not be read
		return u
	}
	prefix, anon := "", "anon"
	if !m.unified {
		prefix, anon = "total_", "total_rss"
	}
	used := mem.Usage.Usage
	u.Memory = &statsapi.MemoryStats{
		Time: now, UsageBytes: &used, WorkingSetBytes: new(used - min(used, mem.Stats[prefix+"inactive_file"])), RSSBytes: new(mem.Stats[anon]),
		PageFaults: new(mem.Stats[prefix+"pgfault"]), MajorPageFaults: new(mem.Stats[prefix+"pgmajfault"]), PSI: nanoseconds(mem.PSI),
	}
	if Limited(mem.Usage.Limit) {
		u.limit = int64(mem.Usage.Limit)
		u.Memory.AvailableBytes = new(mem.Usage.Limit - min(mem.Usage.Limit, *u.Memory.WorkingSetBytes))
	}
	u.Swap = m.swap(&mem, now)
	return u
}

// empty tells whether the kernel says that a cgroup uses no memory at all.
func (m *Machine) empty(path string) bool {
	controller, file := "", "memory.current"
	if !m.unified {
		controller, file = "memory", "memory.usage_in_bytes"
	}
	text, err := cgroups.ReadFile(m.Dir(controller, path), file)
	return err == nil && strings.TrimSpace(text) == "0"
}

// WorkingSet returns how much memory a cgroup uses that the kernel could not take back at once, and its limit, 0 for none.
func (m *Machine) WorkingSet(cgroup string) (workingSet, limit int64, err error) {
	u := m.Cgroup(cgroup)
	if cgroup == "" || u.Memory == nil {
		return 0, 0, fmt.Errorf("read the memory of cgroup %q: %w", cgroup, fs.ErrNotExist)
	}
	return int64(*u.Memory.WorkingSetBytes), u.limit, nil
}

// swap reads what a cgroup swaps. v1 limits memory and swap together, which says something of swap only where memory is
// limited, too.
func (m *Machine) swap(mem *cgroups.MemoryStats, now metav1.Time) *statsapi.SwapStats {
	used, limit := mem.SwapOnlyUsage.Usage, mem.SwapOnlyUsage.Limit
	if !m.unified {
		n, told := mem.Stats["total_swap"]
		if !told {
			return nil
		}
		used, limit = n, mem.SwapUsage.Limit-min(mem.SwapUsage.Limit, mem.Usage.Limit)
		if !Limited(mem.SwapUsage.Limit) || !Limited(mem.Usage.Limit) {
			return &statsapi.SwapStats{Time: now, SwapUsageBytes: &used}
		}
	}
	out := &statsapi.SwapStats{Time: now, SwapUsageBytes: &used}
	if Limited(limit) {
		out.SwapAvailableBytes = new(limit - min(limit, used))
	}
	return out
}

// Limited tells a limit from none: v1 writes the largest multiple of a page, v2 "max".
func Limited(limit uint64) bool { return limit < 1<<62 }

// nanoseconds converts the kernel's account of waiting, which counts microseconds.
func nanoseconds(psi *cgroups.PSIStats) *statsapi.PSIStats {
	if psi == nil {
		return nil
	}
	data := func(d cgroups.PSIData) statsapi.PSIData {
		return statsapi.PSIData{Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300, Total: d.Total * 1000}
	}
	return &statsapi.PSIStats{Some: data(psi.Some), Full: data(psi.Full)}
}

// Child finds the cgroup of a container below its pod's: runtimes name it by the container's ID, with or without words
// around it.
func (m *Machine) Child(pod, containerID string) (string, bool) {
	if pod == "" || containerID == "" || strings.ContainsAny(containerID, "/\x00") {
		return "", false
	}
	entries, err := os.ReadDir(m.anyDir(pod))
	if err != nil {
		return "", false
	}
	for _, entry := range entries {
		if entry.IsDir() && strings.Contains(entry.Name(), containerID) {
			return filepath.Join(pod, entry.Name()), true
		}
	}
	return "", false
}

// anyDir is a directory of a cgroup, of memory if that has a hierarchy.
func (m *Machine) anyDir(cgroup string) string {
	if dir := m.Dir("memory", cgroup); dir != "" {
		return dir
	}
	return m.Dir("cpuacct", cgroup)
}

// HasCgroup reports whether there is a cgroup of this path, which is not the root's.
func (m *Machine) HasCgroup(path string) bool {
	if path == "" || filepath.Clean(path) == "/" {
		return false
	}
	info, err := os.Stat(m.anyDir(path))
	return err == nil && info.IsDir()
}
