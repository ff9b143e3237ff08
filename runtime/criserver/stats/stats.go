// Package stats reads what cgroups and network interfaces use.
package stats

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/namespaces"
)

// maxFile bounds what is read of a cgroup file.
const maxFile = 64 << 10

// Root is where cgroups are mounted.
const Root = "/sys/fs/cgroup"

// Usage is what a cgroup uses and has used.
type Usage struct {
	CPUNanoseconds, UserNanoseconds, SystemNanoseconds uint64
	Periods, ThrottledPeriods, ThrottledNanoseconds    uint64

	MemoryUsage, MaxMemoryUsage, WorkingSet uint64
	RSS, Cache, MappedFile, Kernel, Swap    uint64
	MemoryLimit                             uint64 // 0 for none
	PageFaults, MajorPageFaults             uint64
	LimitHits, OOMKills                     uint64

	Threads, MaxThreads uint64 // no maximum is 0

	IO       []DeviceIO
	Pressure map[string]string // files of pressure stall information by resource, on v2
}

// DeviceIO is what a cgroup has read from and written to a block device.
type DeviceIO struct {
	Device                                     string // major:minor
	ReadBytes, WrittenBytes, ReadOps, WriteOps uint64
}

// Cgroups reads from one machine's cgroup file systems.
type Cgroups struct {
	Root string
	V2   bool
}

// Read reads the usage of a cgroup by its path below the roots. Fields whose file is missing are 0. The managers of
// opencontainers/cgroups read three times as many files for it, and fail when one of them is missing.
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
	file := func(name string) string { return filepath.Join(dir, name) }
	cpu, memory, events := table(file("cpu.stat")), table(file("memory.stat")), table(file("memory.events"))
	u := Usage{
		CPUNanoseconds: cpu["usage_usec"] * 1000, UserNanoseconds: cpu["user_usec"] * 1000, SystemNanoseconds: cpu["system_usec"] * 1000,
		Periods: cpu["nr_periods"], ThrottledPeriods: cpu["nr_throttled"], ThrottledNanoseconds: cpu["throttled_usec"] * 1000,
		MemoryUsage: number(file("memory.current")), MaxMemoryUsage: number(file("memory.peak")), MemoryLimit: number(file("memory.max")),
		RSS: memory["anon"], Cache: memory["file"], MappedFile: memory["file_mapped"], Kernel: memory["kernel"], Swap: number(file("memory.swap.current")),
		PageFaults: memory["pgfault"], MajorPageFaults: memory["pgmajfault"], LimitHits: events["max"], OOMKills: events["oom_kill"],
		Threads: number(file("pids.current")), MaxThreads: number(file("pids.max")), IO: ioV2(read(file("io.stat"))), Pressure: map[string]string{},
	}
	u.WorkingSet = u.MemoryUsage - min(u.MemoryUsage, memory["inactive_file"])
	for _, name := range []string{"cpu", "memory", "io"} {
		if text := read(file(name + ".pressure")); text != "" {
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
	cpu, ticks, memory := table(file("cpu", "cpu.stat")), table(file("cpuacct", "cpuacct.stat")), table(file("memory", "memory.stat"))
	u := Usage{
		CPUNanoseconds: number(file("cpuacct", "cpuacct.usage")), UserNanoseconds: ticks["user"] * tick, SystemNanoseconds: ticks["system"] * tick,
		Periods: cpu["nr_periods"], ThrottledPeriods: cpu["nr_throttled"], ThrottledNanoseconds: cpu["throttled_time"],
		MemoryUsage: number(file("memory", "memory.usage_in_bytes")), MaxMemoryUsage: number(file("memory", "memory.max_usage_in_bytes")),
		MemoryLimit: number(file("memory", "memory.limit_in_bytes")), Kernel: number(file("memory", "memory.kmem.usage_in_bytes")),
		RSS: memory["total_rss"], Cache: memory["total_cache"], MappedFile: memory["total_mapped_file"], Swap: memory["total_swap"],
		PageFaults: memory["total_pgfault"], MajorPageFaults: memory["total_pgmajfault"], LimitHits: number(file("memory", "memory.failcnt")),
		OOMKills: table(file("memory", "memory.oom_control"))["oom_kill"],
		Threads:  number(file("pids", "pids.current")), MaxThreads: number(file("pids", "pids.max")),
		IO: ioV1(read(file("blkio", "blkio.throttle.io_service_bytes")), read(file("blkio", "blkio.throttle.io_serviced"))),
	}
	u.WorkingSet = u.MemoryUsage - min(u.MemoryUsage, memory["total_inactive_file"])
	if u.MemoryLimit >= 1<<62 {
		u.MemoryLimit = 0 // v1's way of saying none
	}
	return u, nil
}

// tick is the unit of cpuacct.stat, which Linux fixed for user space.
const tick = 1e9 / 100

// ioV2 reads lines such as 8:0 rbytes=1 wbytes=2 rios=3 wios=4.
func ioV2(text string) []DeviceIO {
	var devices []DeviceIO
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		d := DeviceIO{Device: fields[0]}
		for _, field := range fields[1:] {
			name, value, _ := strings.Cut(field, "=")
			n, _ := strconv.ParseUint(value, 10, 64)
			switch name {
			case "rbytes":
				d.ReadBytes = n
			case "wbytes":
				d.WrittenBytes = n
			case "rios":
				d.ReadOps = n
			case "wios":
				d.WriteOps = n
			}
		}
		devices = append(devices, d)
	}
	return devices
}

// ioV1 reads two files of lines such as 8:0 Read 1.
func ioV1(bytes, operations string) []DeviceIO {
	var devices []DeviceIO
	index := map[string]int{}
	each := func(text string, set func(d *DeviceIO, operation string, n uint64)) {
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) != 3 {
				continue
			}
			i, ok := index[fields[0]]
			if !ok {
				i = len(devices)
				index[fields[0]] = i
				devices = append(devices, DeviceIO{Device: fields[0]})
			}
			n, _ := strconv.ParseUint(fields[2], 10, 64)
			set(&devices[i], fields[1], n)
		}
	}
	each(bytes, func(d *DeviceIO, operation string, n uint64) {
		switch operation {
		case "Read":
			d.ReadBytes = n
		case "Write":
			d.WrittenBytes = n
		}
	})
	each(operations, func(d *DeviceIO, operation string, n uint64) {
		switch operation {
		case "Read":
			d.ReadOps = n
		case "Write":
			d.WriteOps = n
		}
	})
	return devices
}

// ForProcesses is a directory by which the processes of a cgroup are found, and on v1 the
// controller that it belongs to: pids needs no setting up, unlike cpuset.
func (c Cgroups) ForProcesses(path string) (dir, controller string) {
	if c.V2 {
		return filepath.Join(c.Root, path), ""
	}
	return filepath.Join(c.Root, "pids", path), "pids"
}

// maxProcesses bounds how many processes of a cgroup are looked at.
const maxProcesses = 1000

// Open counts a cgroup's processes, and the files and sockets that they have open.
func (c Cgroups) Open(path string) (processes, files, sockets uint64) {
	controller := "memory"
	if c.V2 {
		controller = ""
	}
	pids := strings.Fields(read(filepath.Join(c.Root, controller, path, "cgroup.procs")))
	for _, pid := range pids[:min(len(pids), maxProcesses)] {
		dir := "/proc/" + pid + "/fd"
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // ended meanwhile
		}
		files += uint64(len(entries))
		for _, entry := range entries {
			if target, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil && strings.HasPrefix(target, "socket:") {
				sockets++
			}
		}
	}
	return uint64(len(pids)), files, sockets
}

// OOMKills is how many processes of a cgroup were killed for memory.
func (c Cgroups) OOMKills(path string) uint64 {
	if c.V2 {
		return table(filepath.Join(c.Root, path, "memory.events"))["oom_kill"]
	}
	return table(filepath.Join(c.Root, "memory", path, "memory.oom_control"))["oom_kill"]
}

func read(path string) string {
	text, _ := bounded.ReadFile(path, maxFile)
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
