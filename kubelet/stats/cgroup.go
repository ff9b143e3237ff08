package stats

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// machine is where the kernel's files are.
type machine struct {
	root    string            // "/", or a test's
	unified bool              // cgroup v2
	mounts  map[string]string // controller -> mount point; "" on v2
}

// openMachine finds the cgroup hierarchies. Where one is mounted several times the shortest path is the machine's own.
func openMachine(root string) (*machine, error) {
	file, err := os.Open(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	defer file.Close()
	list, err := mountinfo.GetMountsFromReader(file, mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	m := &machine{root: root, mounts: map[string]string{}}
	v2 := ""
	for _, mount := range list {
		if mount.FSType == "cgroup2" {
			if v2 == "" || len(mount.Mountpoint) < len(v2) {
				v2 = mount.Mountpoint
			}
			continue
		}
		for controller := range strings.SplitSeq(mount.VFSOptions, ",") {
			if old, ok := m.mounts[controller]; !ok || len(mount.Mountpoint) < len(old) {
				m.mounts[controller] = mount.Mountpoint
			}
		}
	}
	if m.mounts["memory"] == "" && m.mounts["cpuacct"] == "" {
		m.unified, m.mounts = true, map[string]string{"": v2}
	}
	if m.unified && v2 == "" {
		return nil, fmt.Errorf("find the cgroup hierarchies: none is mounted: %w", fs.ErrNotExist)
	}
	return m, nil
}

// read reads one of the kernel's files below root.
func (m *machine) read(path string) (string, error) {
	file, err := os.Open(filepath.Join(m.root, path))
	if err != nil {
		return "", err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return string(data), nil
}

// file is the path of a controller's file of a cgroup.
func (m *machine) file(controller, cgroup, name string) string {
	if m.unified {
		controller = ""
	}
	return filepath.Join(m.mounts[controller], cgroup, name)
}

// number reads a file of one number, nil if it cannot be had.
func (m *machine) number(controller, cgroup, name string) *uint64 {
	if !m.unified && m.mounts[controller] == "" {
		return nil
	}
	text, err := m.read(m.file(controller, cgroup, name))
	if err != nil {
		return nil
	}
	n, err := parseNumber(text)
	if err != nil {
		return nil
	}
	return &n
}

// usage is what one cgroup uses, the cgroups below it included. What the kernel does not tell is nil.
type usage struct {
	cpu       *statsapi.CPUStats
	memory    *statsapi.MemoryStats
	swap      *statsapi.SwapStats
	io        *statsapi.IOStats
	processes *uint64
}

// cgroup reads one cgroup, given as its path in the hierarchies.
func (m *machine) cgroup(path string) usage {
	now := metav1.NewTime(time.Now())
	u := usage{processes: m.number("pids", path, "pids.current")}
	if nanos := m.cpu(path); nanos != nil {
		u.cpu = &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: nanos, PSI: m.pressure(path, "cpu")}
	}
	u.memory, u.swap = m.memory(path, now)
	if psi := m.pressure(path, "io"); psi != nil {
		u.io = &statsapi.IOStats{Time: now, PSI: psi}
	}
	return u
}

// cpu is the CPU time in nanoseconds.
func (m *machine) cpu(path string) *uint64 {
	if !m.unified {
		return m.number("cpuacct", path, "cpuacct.usage")
	}
	text, err := m.read(m.file("", path, "cpu.stat"))
	if err != nil {
		return nil
	}
	micros, ok := parseKeyed(text)["usage_usec"]
	if !ok || micros > math.MaxUint64/1000 {
		return nil
	}
	return new(micros * 1000)
}

// memory follows cadvisor: the working set is what is used without the file cache that has not been touched lately.
//
// Upstream: vendor/github.com/google/cadvisor/container/libcontainer/handler.go setMemoryStats
func (m *machine) memory(path string, now metav1.Time) (*statsapi.MemoryStats, *statsapi.SwapStats) {
	used, limit := m.number("memory", path, "memory.current"), m.number("memory", path, "memory.max")
	prefix, anon := "", "anon"
	if !m.unified {
		used, limit = m.number("memory", path, "memory.usage_in_bytes"), m.number("memory", path, "memory.limit_in_bytes")
		prefix, anon = "total_", "total_rss"
	}
	text, err := m.read(m.file("memory", path, "memory.stat"))
	if used == nil || err != nil {
		return nil, nil
	}
	keys := parseKeyed(text)
	out := &statsapi.MemoryStats{
		Time: now, UsageBytes: used, WorkingSetBytes: new(*used - min(*used, keys[prefix+"inactive_file"])), RSSBytes: new(keys[anon]),
		PageFaults: new(keys[prefix+"pgfault"]), MajorPageFaults: new(keys[prefix+"pgmajfault"]), PSI: m.pressure(path, "memory"),
	}
	if limited(limit) {
		out.AvailableBytes = new(*limit - min(*limit, *out.WorkingSetBytes))
	}
	return out, m.swap(path, keys, limit, now)
}

func (m *machine) swap(path string, keys map[string]uint64, memoryLimit *uint64, now metav1.Time) *statsapi.SwapStats {
	out := &statsapi.SwapStats{Time: now}
	var limit *uint64
	if m.unified {
		out.SwapUsageBytes = m.number("memory", path, "memory.swap.current")
		limit = m.number("memory", path, "memory.swap.max")
	} else {
		if swapped, ok := keys["total_swap"]; ok {
			out.SwapUsageBytes = &swapped
		}
		both := m.number("memory", path, "memory.memsw.limit_in_bytes")
		if limited(both) && limited(memoryLimit) {
			limit = new(*both - min(*both, *memoryLimit))
		}
	}
	if out.SwapUsageBytes == nil {
		return nil
	}
	if limited(limit) {
		out.SwapAvailableBytes = new(*limit - min(*limit, *out.SwapUsageBytes))
	}
	return out
}

// limited tells a limit from none: v1 writes the largest multiple of a page, v2 "max".
//
// Upstream: pkg/kubelet/stats/helper.go isMemoryUnlimited
func limited(limit *uint64) bool { return limit != nil && *limit < 1<<62 }

// pressure reads the pressure-stall information of a cgroup; only v2 has it.
func (m *machine) pressure(path, resource string) *statsapi.PSIStats {
	if !m.unified {
		return nil
	}
	return m.pressureFile(m.file("", path, resource+".pressure"))
}

func (m *machine) pressureFile(path string) *statsapi.PSIStats {
	text, err := m.read(path)
	if err != nil {
		return nil // a kernel without PSI, or with psi=0
	}
	psi, err := parsePressure(text)
	if err != nil {
		return nil
	}
	return psi
}

// childOf finds the cgroup of a container below its pod's: runtimes name it by the container's ID, with or without
// words around it.
func (m *machine) childOf(pod, containerID string) (string, bool) {
	if containerID == "" || strings.ContainsAny(containerID, "/\x00") {
		return "", false
	}
	entries, err := os.ReadDir(filepath.Join(m.root, m.file("memory", pod, "")))
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

// hasCgroup tells whether there is a cgroup of this path, which is not the root's.
func (m *machine) hasCgroup(path string) bool {
	if path == "" || filepath.Clean(path) == "/" {
		return false
	}
	controller := "memory"
	if m.mounts[controller] == "" {
		controller = "cpuacct"
	}
	info, err := os.Stat(filepath.Join(m.root, m.file(controller, path, "")))
	return err == nil && info.IsDir()
}

// cgroupOf is the cgroup that a process is in, "" for none of its own.
func (m *machine) cgroupOf(pid int) string {
	text, err := m.read(fmt.Sprintf("proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	controller := "memory"
	if m.unified {
		controller = ""
	}
	if path := parseProcCgroup(text)[controller]; path != "/" && !strings.HasPrefix(path, "/..") {
		return path
	}
	return ""
}
