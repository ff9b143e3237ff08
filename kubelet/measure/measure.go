// Package measure reads the kernel's accounts: what the node, its cgroups, its processes and its filesystems use and have
// left. The node's status, eviction and statistics all read them here. What directories take is measured by
// runtime/criserver/diskusage, which the CRI server uses as well.
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

	"github.com/moby/sys/mountinfo"
	"github.com/prometheus/procfs"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Machine reads the files below /proc and /sys. Its methods may be called at the same time.
type Machine struct {
	root    string // "/", or a test's
	proc    procfs.FS
	unified bool              // cgroup v2
	mounts  map[string]string // the hierarchies' directories by controller, below root; "" is the one of cgroup v2
}

// Usage is what the node, a cgroup or a process uses. What the kernel does not tell is nil.
type Usage struct {
	CPU       *statsapi.CPUStats
	Memory    *statsapi.MemoryStats
	Swap      *statsapi.SwapStats
	IO        *statsapi.IOStats
	Processes *uint64

	limit int64 // of a cgroup's memory, which what it uses may exceed for a while; 0 for none
}

// Open finds the cgroup hierarchies of the machine whose files are below root: "/", or a test's directory. Of several
// mounts of one hierarchy the shortest path counts: the others show a part of it.
func Open(root string) (*Machine, error) {
	proc, err := procfs.NewFS(filepath.Join(root, "proc"))
	if err != nil {
		return nil, err
	}
	file, err := os.Open(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	defer file.Close()
	list, err := mountinfo.GetMountsFromReader(file, mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	m := &Machine{root: root, proc: proc, mounts: map[string]string{}}
	for _, mount := range list {
		controllers := strings.Split(mount.VFSOptions, ",")
		if mount.FSType == "cgroup2" {
			controllers = []string{""}
		}
		for _, controller := range controllers {
			dir := filepath.Join(root, mount.Mountpoint)
			if old, ok := m.mounts[controller]; !ok || len(dir) < len(old) {
				m.mounts[controller] = dir
			}
		}
	}
	m.unified = m.mounts["memory"] == "" && m.mounts["cpuacct"] == ""
	if m.unified && m.mounts[""] == "" {
		return nil, fmt.Errorf("find the cgroup hierarchies: none is mounted: %w", fs.ErrNotExist)
	}
	return m, nil
}

// Unified reports whether the controllers are those of cgroup v2.
func (m *Machine) Unified() bool { return m.unified }

// Boot returns when the machine was started; zero if the kernel does not tell.
func (m *Machine) Boot() metav1.Time {
	stat, err := m.proc.Stat()
	if err != nil || stat.BootTime == 0 {
		return metav1.Time{}
	}
	return metav1.NewTime(time.Unix(int64(stat.BootTime), 0))
}

// CPUs counts the processors that are online, which pods may use whatever this process may.
func (m *Machine) CPUs() int {
	stat, err := m.proc.Stat()
	if err != nil {
		return 0
	}
	return len(stat.CPU)
}

// Path is where one of the machine's files is, which is given below "/".
func (m *Machine) Path(file string) string { return filepath.Join(m.root, file) }

// Read returns the text of one of the kernel's files, "" if it cannot be read, such as "etc/machine-id".
func (m *Machine) Read(path string) string {
	data, err := os.ReadFile(m.Path(path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// HugePages returns how many bytes there are in huge pages, by their size in bytes.
func (m *Machine) HugePages() (map[int64]int64, error) {
	const dir = "sys/kernel/mm/hugepages" // with a directory hugepages-2048kB for a size
	entries, err := os.ReadDir(filepath.Join(m.root, dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read huge pages: %w", err)
	}
	out := map[int64]int64{}
	for _, e := range entries {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(m.Read(filepath.Join(dir, e.Name(), "nr_hugepages")), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read huge pages of %d kB: %w", kb, err)
		}
		out[kb<<10] = n * kb << 10
	}
	return out, nil
}

// PIDs returns how many tasks there may be and are; each has a process ID. The time is set always.
//
// Upstream: pkg/kubelet/stats/pidlimit/pidlimit_linux.go Stats
func (m *Machine) PIDs() *statsapi.RlimitStats {
	out := &statsapi.RlimitStats{Time: metav1.Now()}
	for _, name := range []string{"kernel.pid_max", "kernel.threads-max"} {
		if n, err := m.proc.SysctlInts(name); err == nil && (out.MaxPID == nil || int64(n[0]) < *out.MaxPID) {
			out.MaxPID = new(int64(n[0]))
		}
	}
	var loads [3]float64
	var runnable, tasks int64
	if _, err := fmt.Sscanf(m.Read("proc/loadavg"), "%f %f %f %d/%d", &loads[0], &loads[1], &loads[2], &runnable, &tasks); err == nil {
		out.NumOfRunningProcesses = &tasks
	}
	return out
}

// psi is the kernel's account of the time that tasks waited; it counts microseconds, the API nanoseconds.
func (m *Machine) psi(resource string) *statsapi.PSIStats {
	stats, err := m.proc.PSIStatsForResource(resource)
	if err != nil || stats.Some == nil {
		return nil // a kernel without PSI, or with psi=0
	}
	data := func(l *procfs.PSILine) statsapi.PSIData {
		if l == nil {
			return statsapi.PSIData{}
		}
		return statsapi.PSIData{Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300, Total: l.Total * 1000}
	}
	return &statsapi.PSIStats{Some: data(stats.Some), Full: data(stats.Full)}
}
