// Package stats reads what cgroups and network interfaces use.
package stats

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/cgroups/fscommon"
	"github.com/prometheus/procfs"
	"github.com/vishvananda/netlink"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/namespaces"
)

// Root is where cgroups are mounted.
const Root = "/sys/fs/cgroup"

// Usage is what a cgroup uses and has used. MemoryStats.Stats has the names of cgroup v2 on v1 too, and a limit of 0 is none.
type Usage struct {
	cgroups.Stats
	OOMKills uint64
}

// WorkingSet is the memory in use that the kernel cannot just drop.
func (u *Usage) WorkingSet() uint64 {
	used := u.MemoryStats.Usage.Usage
	return used - min(used, u.MemoryStats.Stats["inactive_file"])
}

// Cgroups reads from one machine's cgroup file systems.
type Cgroups struct {
	Root string
	V2   bool
}

// dir is the directory of a cgroup, on v1 the controller's.
func (c Cgroups) dir(controller, path string) string {
	if c.V2 {
		return filepath.Join(c.Root, path)
	}
	return filepath.Join(c.Root, controller, path)
}

// unlimited is the least number that means no limit: v1 writes the largest count of whole pages, v2 the word max.
const unlimited = 1 << 62

// Read reads the usage of a cgroup by its path below the roots. What cannot be read is 0: a controller may be switched off,
// and the cgroup may be removed meanwhile.
func (c Cgroups) Read(path string) (Usage, error) {
	dir := c.dir("memory", path)
	if _, err := os.Stat(dir); err != nil {
		return Usage{}, fmt.Errorf("read cgroup: %w", err)
	}
	u := Usage{Stats: *cgroups.NewStats(), OOMKills: c.OOMKills(path)}
	memory := &u.MemoryStats
	if c.V2 {
		manager, err := fs2.NewManager(&cgroups.Cgroup{Rootless: true}, dir) // Rootless: the stats come without their errors
		if err != nil {
			return Usage{}, fmt.Errorf("read cgroup: %w", err)
		}
		if read, err := manager.Stats(&cgroups.StatsOptions{Controllers: cgroups.CPU | cgroups.Memory | cgroups.Pids | cgroups.IO}); err == nil {
			u.Stats = *read
		}
		memory.KernelUsage.Usage = memory.Stats["kernel"]
		memory.Usage.Failcnt, _ = fscommon.GetValueByKey(dir, "memory.events", "max")
	} else {
		for controller, group := range map[string]interface {
			GetStats(string, *cgroups.Stats) error
		}{"cpu": &fs.CpuGroup{}, "cpuacct": &fs.CpuacctGroup{}, "memory": &fs.MemoryGroup{}, "pids": &fs.PidsGroup{}, "blkio": &fs.BlkioGroup{}} {
			_ = group.GetStats(c.dir(controller, path), &u.Stats)
		}
		for v2, v1 := range map[string]string{"anon": "rss", "file_mapped": "mapped_file", "inactive_file": "inactive_file", "pgfault": "pgfault", "pgmajfault": "pgmajfault"} {
			memory.Stats[v2] = memory.Stats["total_"+v1]
		}
		memory.Cache, memory.SwapOnlyUsage.Usage = memory.Stats["total_cache"], memory.Stats["total_swap"]
	}
	if memory.Usage.Limit >= unlimited {
		memory.Usage.Limit = 0
	}
	return u, nil
}

// PSI translates pressure stall information, whose totals are in microseconds, for the CRI.
func PSI(from *cgroups.PSIStats) *runtimeapi.PsiStats {
	if from == nil {
		return nil
	}
	data := func(d cgroups.PSIData) *runtimeapi.PsiData {
		return &runtimeapi.PsiData{Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300, Total: d.Total * 1000}
	}
	return &runtimeapi.PsiStats{Some: data(from.Some), Full: data(from.Full)}
}

// ForProcesses is a directory by which the processes of a cgroup are found, and on v1 the controller that it belongs to:
// pids needs no setting up, unlike cpuset.
func (c Cgroups) ForProcesses(path string) (dir, controller string) {
	if c.V2 {
		return c.dir("", path), ""
	}
	return c.dir("pids", path), "pids"
}

// maxProcesses bounds how many processes of a cgroup are looked at.
const maxProcesses = 1000

// Open counts a cgroup's processes, and the files and sockets that they have open.
func (c Cgroups) Open(path string) (processes, files, sockets uint64) {
	pids, _ := cgroups.GetPids(c.dir("memory", path))
	for _, pid := range pids[:min(len(pids), maxProcesses)] {
		process, err := procfs.NewProc(pid)
		if err != nil {
			continue // ended meanwhile
		}
		targets, _ := process.FileDescriptorTargets()
		files += uint64(len(targets))
		for _, target := range targets {
			if strings.HasPrefix(target, "socket:") {
				sockets++
			}
		}
	}
	return uint64(len(pids)), files, sockets
}

// OOMKills is how many processes of a cgroup were killed for memory.
func (c Cgroups) OOMKills(path string) uint64 {
	file := "memory.oom_control"
	if c.V2 {
		file = "memory.events"
	}
	kills, _ := fscommon.GetValueByKey(c.dir("memory", path), file, "oom_kill")
	return kills
}

// Interfaces are the interfaces of a network namespace with their statistics, but for the loopback one.
func Interfaces(netns string) (interfaces []*netlink.LinkAttrs, err error) {
	err = namespaces.Do(netns, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, link := range links {
			if a := link.Attrs(); a.Statistics != nil && a.Name != "lo" {
				interfaces = append(interfaces, a)
			}
		}
		return nil
	})
	return interfaces, err
}
