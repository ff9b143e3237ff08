package stats

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/procfs"
)

// sample is one value of a container under one of cadvisor's names.
type sample struct {
	family string // a key of families
	value  float64
	labels []string // beside those of the container
}

// family is a metric of containers.
type family struct {
	help   string
	kind   prometheus.ValueType
	labels []string
}

// families are what the kernel tells of a container's cgroup and processes, under cadvisor's names without "container_".
// A runtime shows some of them itself.
//
// Upstream: vendor/github.com/google/cadvisor/metrics/prometheus.go NewPrometheusCollector
var families = map[string]family{
	"blkio_device_usage_total":            {"Bytes read from and written to devices.", prometheus.CounterValue, []string{"device", "major", "minor", "operation"}},
	"cpu_system_seconds_total":            {"CPU time in the kernel in seconds.", prometheus.CounterValue, nil},
	"cpu_user_seconds_total":              {"CPU time in programs in seconds.", prometheus.CounterValue, nil},
	"file_descriptors":                    {"Open file descriptors.", prometheus.GaugeValue, nil},
	"fs_reads_bytes_total":                {"Bytes read.", prometheus.CounterValue, []string{"device"}},
	"fs_reads_total":                      {"Reads that were completed.", prometheus.CounterValue, []string{"device"}},
	"fs_writes_bytes_total":               {"Bytes written.", prometheus.CounterValue, []string{"device"}},
	"fs_writes_total":                     {"Writes that were completed.", prometheus.CounterValue, []string{"device"}},
	"last_seen":                           {"Unix time at which the container was last seen.", prometheus.GaugeValue, nil},
	"memory_cache":                        {"Page cache.", prometheus.GaugeValue, nil},
	"memory_events_high_total":            {"How often the memory was throttled.", prometheus.CounterValue, nil},
	"memory_events_max_total":             {"How often the memory reached its limit.", prometheus.CounterValue, nil},
	"memory_failcnt":                      {"How often the memory reached its limit.", prometheus.CounterValue, nil},
	"memory_mapped_file":                  {"Files mapped into memory.", prometheus.GaugeValue, nil},
	"memory_max_usage_bytes":              {"Most memory that was in use.", prometheus.GaugeValue, nil},
	"oom_events_total":                    {"Processes that were killed for lack of memory.", prometheus.CounterValue, nil},
	"processes":                           {"Processes.", prometheus.GaugeValue, nil},
	"sockets":                             {"Open sockets.", prometheus.GaugeValue, nil},
	"spec_cpu_period":                     {"Period of the CPU quota in microseconds.", prometheus.GaugeValue, nil},
	"spec_cpu_quota":                      {"CPU quota in microseconds.", prometheus.GaugeValue, nil},
	"spec_cpu_shares":                     {"CPU shares.", prometheus.GaugeValue, nil},
	"spec_memory_limit_bytes":             {"Limit of the memory, 0 for none.", prometheus.GaugeValue, nil},
	"spec_memory_reservation_limit_bytes": {"Memory above which pages are taken back first, 0 for none.", prometheus.GaugeValue, nil},
	"spec_memory_swap_limit_bytes":        {"Limit of memory and swap together on cgroup v1, of swap on v2, 0 for none.", prometheus.GaugeValue, nil},
	"threads":                             {"Threads.", prometheus.GaugeValue, nil},
	"threads_max":                         {"Most threads there may be, 0 for any number.", prometheus.GaugeValue, nil},
	"ulimits_soft":                        {"Soft limits of the first process.", prometheus.GaugeValue, []string{"ulimit"}},
}

// supplement shows of every container that runs the families that are not shown yet.
func (p *Provider) supplement(ctx context.Context, out chan<- prometheus.Metric, shown map[string]bool) {
	descs := map[string]*prometheus.Desc{}
	for name, f := range families {
		if !shown["container_"+name] {
			descs[name] = cadvisorDesc(name, f.help, f.labels...)
		}
	}
	s, err := p.snapshot(ctx, true)
	if err != nil || len(descs) == 0 {
		return
	}
	specs := p.specs()
	for i := range s.Pods {
		ref := &s.Pods[i].PodRef
		spec := specs[ref.UID]
		if spec == nil || p.podCgroup(spec) == "" {
			continue
		}
		for j, c := range s.pods[i].containers {
			cgroup, ok := p.machine.childOf(p.podCgroup(spec), c.Id)
			if !ok {
				continue
			}
			image := c.GetImage().GetUserSpecifiedImage()
			if image == "" {
				image = c.GetImage().GetImage()
			}
			labels := []string{cgroup, c.Id, image, s.Pods[i].Containers[j].Name, ref.Name, ref.Namespace}
			for _, v := range p.machine.details(cgroup) {
				if desc := descs[v.family]; desc != nil {
					if m, err := prometheus.NewConstMetric(desc, families[v.family].kind, v.value, slices.Concat(labels, v.labels)...); err == nil {
						out <- m
					}
				}
			}
		}
	}
}

// details reads what there is to know of one container's cgroup. What the kernel does not tell is left out.
func (m *machine) details(cgroup string) []sample {
	out := []sample{{"last_seen", float64(time.Now().Unix()), nil}}
	add := func(family string, n *uint64, divisor float64) {
		if n != nil {
			out = append(out, sample{family, float64(*n) / divisor, nil})
		}
	}
	if m.unified {
		m.unifiedDetails(cgroup, add)
	} else {
		m.legacyDetails(cgroup, add)
	}
	add("threads", m.number("pids", cgroup, "pids.current"), 1)
	add("threads_max", orNone(m.number("pids", cgroup, "pids.max")), 1)
	out = append(out, m.devices(cgroup)...)
	return append(out, m.processes(cgroup)...)
}

// orNone shows a limit that is none as 0.
func orNone(n *uint64) *uint64 {
	if n != nil && !limited(n) {
		return new(uint64)
	}
	return n
}

func (m *machine) keyed(controller, cgroup, name string) func(key string) *uint64 {
	text, _ := m.read(m.file(controller, cgroup, name)) // without the file there is no key
	keys := parseKeyed(text)
	return func(key string) *uint64 {
		if n, ok := keys[key]; ok {
			return &n
		}
		return nil
	}
}

func (m *machine) unifiedDetails(cgroup string, add func(string, *uint64, float64)) {
	cpu, memory, events := m.keyed("", cgroup, "cpu.stat"), m.keyed("", cgroup, "memory.stat"), m.keyed("", cgroup, "memory.events")
	add("cpu_user_seconds_total", cpu("user_usec"), 1e6)
	add("cpu_system_seconds_total", cpu("system_usec"), 1e6)
	add("memory_cache", memory("file"), 1)
	add("memory_mapped_file", memory("file_mapped"), 1)
	add("memory_max_usage_bytes", m.number("", cgroup, "memory.peak"), 1)
	add("memory_failcnt", events("max"), 1)
	add("memory_events_high_total", events("high"), 1)
	add("memory_events_max_total", events("max"), 1)
	add("oom_events_total", events("oom_kill"), 1)
	if text, err := m.read(m.file("", cgroup, "cpu.max")); err == nil {
		quota, period, _ := strings.Cut(strings.TrimSpace(text), " ")
		if n, err := strconv.ParseUint(period, 10, 64); err == nil {
			add("spec_cpu_period", &n, 1)
		}
		if n, err := strconv.ParseUint(quota, 10, 64); err == nil {
			add("spec_cpu_quota", &n, 1)
		}
	}
	if weight := m.number("", cgroup, "cpu.weight"); weight != nil && *weight > 0 && *weight <= 10_000 {
		add("spec_cpu_shares", new(2+(*weight-1)*262142/9999), 1)
	}
	add("spec_memory_limit_bytes", orNone(m.number("", cgroup, "memory.max")), 1)
	add("spec_memory_reservation_limit_bytes", orNone(m.number("", cgroup, "memory.high")), 1)
	add("spec_memory_swap_limit_bytes", orNone(m.number("", cgroup, "memory.swap.max")), 1)
}

// userHZ is what the kernel counts CPU time in, for programs.
const userHZ = 100

func (m *machine) legacyDetails(cgroup string, add func(string, *uint64, float64)) {
	cpu, memory, oom := m.keyed("cpuacct", cgroup, "cpuacct.stat"), m.keyed("memory", cgroup, "memory.stat"), m.keyed("memory", cgroup, "memory.oom_control")
	failures := m.number("memory", cgroup, "memory.failcnt")
	add("cpu_user_seconds_total", cpu("user"), userHZ)
	add("cpu_system_seconds_total", cpu("system"), userHZ)
	add("memory_cache", memory("total_cache"), 1)
	add("memory_mapped_file", memory("total_mapped_file"), 1)
	add("memory_max_usage_bytes", m.number("memory", cgroup, "memory.max_usage_in_bytes"), 1)
	add("memory_failcnt", failures, 1)
	add("memory_events_max_total", failures, 1)
	if failures != nil { // this version throttles no memory
		add("memory_events_high_total", new(uint64), 1)
	}
	add("oom_events_total", oom("oom_kill"), 1)
	add("spec_cpu_period", m.number("cpu", cgroup, "cpu.cfs_period_us"), 1)
	add("spec_cpu_quota", m.number("cpu", cgroup, "cpu.cfs_quota_us"), 1) // -1 for none is no number here
	add("spec_cpu_shares", m.number("cpu", cgroup, "cpu.shares"), 1)
	add("spec_memory_limit_bytes", orNone(m.number("memory", cgroup, "memory.limit_in_bytes")), 1)
	add("spec_memory_reservation_limit_bytes", orNone(m.number("memory", cgroup, "memory.soft_limit_in_bytes")), 1)
	add("spec_memory_swap_limit_bytes", orNone(m.number("memory", cgroup, "memory.memsw.limit_in_bytes")), 1)
}

// devices tells what was read and written, by device. Of a container that has not read or written anything the kernel
// names no device: that is 0, of none.
func (m *machine) devices(cgroup string) (out []sample) {
	type counted struct {
		device, operation string
		n                 uint64
	}
	show := func(bytes bool, list []counted, err error) {
		if err == nil && len(list) == 0 {
			list = []counted{{"", "Read", 0}, {"", "Write", 0}}
		}
		for _, c := range list {
			name, verb := m.device(c.device), "fs_"+strings.ToLower(c.operation)+"s"
			if !bytes {
				out = append(out, sample{verb + "_total", float64(c.n), []string{name}})
				continue
			}
			major, minor, _ := strings.Cut(c.device, ":")
			out = append(out, sample{verb + "_bytes_total", float64(c.n), []string{name}},
				sample{"blkio_device_usage_total", float64(c.n), []string{name, major, minor, c.operation}})
		}
	}
	if m.unified {
		text, err := m.read(m.file("", cgroup, "io.stat")) // 8:0 rbytes=1 wbytes=2 rios=3 wios=4
		var bytes, times []counted
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			for _, field := range fields[min(1, len(fields)):] {
				key, value, _ := strings.Cut(field, "=")
				n, _ := strconv.ParseUint(value, 10, 64) // the kernel writes numbers
				switch key {
				case "rbytes":
					bytes = append(bytes, counted{fields[0], "Read", n})
				case "wbytes":
					bytes = append(bytes, counted{fields[0], "Write", n})
				case "rios":
					times = append(times, counted{fields[0], "Read", n})
				case "wios":
					times = append(times, counted{fields[0], "Write", n})
				}
			}
		}
		show(true, bytes, err)
		show(false, times, err)
		return out
	}
	for name, bytes := range map[string]bool{"blkio.throttle.io_service_bytes_recursive": true, "blkio.throttle.io_serviced_recursive": false} {
		text, err := m.read(m.file("blkio", cgroup, name)) // 8:0 Read 4096
		var list []counted
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) == 3 && (fields[1] == "Read" || fields[1] == "Write") {
				n, _ := strconv.ParseUint(fields[2], 10, 64) // the kernel writes numbers
				list = append(list, counted{fields[0], fields[1], n})
			}
		}
		show(bytes, list, err)
	}
	return out
}

// device is the path of a block device, given as MAJOR:MINOR; "" if it has none.
func (m *machine) device(numbers string) string {
	if numbers == "" {
		return ""
	}
	text, err := m.read(filepath.Join("sys/dev/block", filepath.Base(numbers), "uevent"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return "/dev/" + name
		}
	}
	return ""
}

// processes looks at the processes of a cgroup. One that ends meanwhile is left out.
func (m *machine) processes(cgroup string) (out []sample) {
	text, err := m.read(m.file("memory", cgroup, "cgroup.procs"))
	if err != nil {
		return nil
	}
	pids := strings.Fields(text)
	files, sockets := 0, 0
	for _, pid := range pids {
		dir := filepath.Join(m.root, "proc", filepath.Base(pid), "fd")
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		files += len(entries)
		for _, entry := range entries {
			if target, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil && strings.HasPrefix(target, "socket:") {
				sockets++
			}
		}
	}
	out = append(out, sample{"processes", float64(len(pids)), nil}, sample{"file_descriptors", float64(files), nil}, sample{"sockets", float64(sockets), nil})
	if len(pids) == 0 {
		return out
	}
	if soft, err := m.softLimit(pids[0]); err == nil {
		out = append(out, sample{"ulimits_soft", soft, []string{"max_open_files"}})
	}
	return out
}

// softLimit is how many files a process may have open.
func (m *machine) softLimit(pid string) (float64, error) {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return 0, fmt.Errorf("read cgroup.procs: %w", err)
	}
	proc, err := procfs.NewFS(filepath.Join(m.root, "proc"))
	if err != nil {
		return 0, err
	}
	of, err := proc.Proc(n)
	if err != nil {
		return 0, err
	}
	limits, err := of.Limits()
	return float64(limits.OpenFiles), err
}
