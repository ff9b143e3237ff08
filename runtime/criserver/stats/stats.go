// Package stats reads what cgroups and network interfaces use.
package stats

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"minikubelet/runtime/criserver/namespaces"
)

// maxFile bounds what is read of a cgroup file.
const maxFile = 64 << 10

// Root is where cgroups are mounted.
const Root = "/sys/fs/cgroup"

// Usage is what a cgroup uses and has used.
type Usage struct {
	CPUNanoseconds   uint64
	MemoryUsage      uint64
	WorkingSet       uint64
	RSS              uint64
	MemoryLimit      uint64 // 0 for none
	PageFaults       uint64
	MajorPageFaults  uint64
	Swap             uint64
	Processes        uint64
	OOMKills         uint64
	Pressure         map[string]string // files of pressure stall information by resource, on v2
	ThrottledPeriods uint64
}

// Cgroups reads from one machine's cgroup file systems.
type Cgroups struct {
	Root string
	V2   bool
}

// Read reads the usage of a cgroup by its path below the roots. Fields whose file is missing are 0.
func (c Cgroups) Read(path string) (Usage, error) {
	if c.V2 {
		return c.readV2(filepath.Join(c.Root, path))
	}
	return c.readV1(path)
}

func (c Cgroups) readV2(dir string) (Usage, error) {
	if _, err := os.Stat(dir); err != nil {
		return Usage{}, fmt.Errorf("read cgroup: %w", err)
	}
	cpu, memory := table(filepath.Join(dir, "cpu.stat")), table(filepath.Join(dir, "memory.stat"))
	u := Usage{
		CPUNanoseconds: cpu["usage_usec"] * 1000, ThrottledPeriods: cpu["nr_throttled"],
		MemoryUsage: number(filepath.Join(dir, "memory.current")), MemoryLimit: number(filepath.Join(dir, "memory.max")),
		RSS: memory["anon"], PageFaults: memory["pgfault"], MajorPageFaults: memory["pgmajfault"],
		Swap: number(filepath.Join(dir, "memory.swap.current")), Processes: number(filepath.Join(dir, "pids.current")),
		OOMKills: table(filepath.Join(dir, "memory.events"))["oom_kill"], Pressure: map[string]string{},
	}
	u.WorkingSet = u.MemoryUsage - min(u.MemoryUsage, memory["inactive_file"])
	for _, name := range []string{"cpu", "memory", "io"} {
		if text := read(filepath.Join(dir, name+".pressure")); text != "" {
			u.Pressure[name] = text
		}
	}
	return u, nil
}

func (c Cgroups) readV1(path string) (Usage, error) {
	file := func(controller, name string) string { return filepath.Join(c.Root, controller, path, name) }
	if _, err := os.Stat(file("memory", "")); err != nil {
		return Usage{}, fmt.Errorf("read cgroup: %w", err)
	}
	memory := table(file("memory", "memory.stat"))
	u := Usage{
		CPUNanoseconds: number(file("cpuacct", "cpuacct.usage")), ThrottledPeriods: table(file("cpu", "cpu.stat"))["nr_throttled"],
		MemoryUsage: number(file("memory", "memory.usage_in_bytes")), MemoryLimit: number(file("memory", "memory.limit_in_bytes")),
		RSS: memory["total_rss"], PageFaults: memory["total_pgfault"], MajorPageFaults: memory["total_pgmajfault"],
		Swap: memory["total_swap"], Processes: number(file("pids", "pids.current")),
		OOMKills: table(file("memory", "memory.oom_control"))["oom_kill"],
	}
	u.WorkingSet = u.MemoryUsage - min(u.MemoryUsage, memory["total_inactive_file"])
	if u.MemoryLimit >= 1<<62 {
		u.MemoryLimit = 0 // v1's way of saying none
	}
	return u, nil
}

// OOMKills is how many processes of a cgroup were killed for memory.
func (c Cgroups) OOMKills(path string) uint64 {
	if c.V2 {
		return table(filepath.Join(c.Root, path, "memory.events"))["oom_kill"]
	}
	return table(filepath.Join(c.Root, "memory", path, "memory.oom_control"))["oom_kill"]
}

func read(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return ""
	}
	return string(text)
}

// number reads a file of one number; "max" and what is missing are 0.
func number(path string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSpace(read(path)), 10, 64)
	return n
}

// table reads a file of names and numbers.
func table(path string) map[string]uint64 {
	values := map[string]uint64{}
	lines := bufio.NewScanner(strings.NewReader(read(path)))
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok {
			values[name], _ = strconv.ParseUint(value, 10, 64)
		}
	}
	return values
}

// Interface is what a network interface has received and sent.
type Interface struct {
	Name                                   string
	RxBytes, RxErrors, TxBytes, TxErrors   uint64
	RxPackets, TxPackets, RxDrops, TxDrops uint64
}

// Interfaces reads the interfaces of a network namespace but for the loopback one.
func Interfaces(netns string) ([]Interface, error) {
	var interfaces []Interface
	err := namespaces.Do(netns, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, link := range links {
			a := link.Attrs()
			if a.Statistics == nil || a.Name == "lo" {
				continue
			}
			interfaces = append(interfaces, Interface{
				Name: a.Name, RxBytes: a.Statistics.RxBytes, RxErrors: a.Statistics.RxErrors, RxPackets: a.Statistics.RxPackets, RxDrops: a.Statistics.RxDropped,
				TxBytes: a.Statistics.TxBytes, TxErrors: a.Statistics.TxErrors, TxPackets: a.Statistics.TxPackets, TxDrops: a.Statistics.TxDropped,
			})
		}
		return nil
	})
	return interfaces, err
}
