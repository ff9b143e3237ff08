package stats

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fscommon"
	"github.com/prometheus/client_golang/prometheus"

	"minikubelet/kubelet/measure"
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

// families are what the kernel tells of a container's cgroup and processes, and of the machine's disks, under cadvisor's
// names without "container_". A runtime shows some of them itself.
//
// Upstream: vendor/github.com/google/cadvisor/metrics/prometheus.go NewPrometheusCollector
var families = map[string]family{
	"blkio_device_usage_total":            {"Bytes read from and written to devices.", prometheus.CounterValue, []string{"device", "major", "minor", "operation"}},
	"cpu_system_seconds_total":            {"CPU time in the kernel in seconds.", prometheus.CounterValue, nil},
	"cpu_user_seconds_total":              {"CPU time in programs in seconds.", prometheus.CounterValue, nil},
	"file_descriptors":                    {"Open file descriptors.", prometheus.GaugeValue, nil},
	"fs_io_current":                       {"Reads and writes under way.", prometheus.GaugeValue, []string{"device"}},
	"fs_io_time_seconds_total":            {"Time in which something was read or written.", prometheus.CounterValue, []string{"device"}},
	"fs_io_time_weighted_seconds_total":   {"Time that all reads and writes were under way together.", prometheus.CounterValue, []string{"device"}},
	"fs_read_seconds_total":               {"Time that reads took.", prometheus.CounterValue, []string{"device"}},
	"fs_reads_merged_total":               {"Reads that were merged with another.", prometheus.CounterValue, []string{"device"}},
	"fs_sector_reads_total":               {"Sectors read.", prometheus.CounterValue, []string{"device"}},
	"fs_sector_writes_total":              {"Sectors written.", prometheus.CounterValue, []string{"device"}},
	"fs_write_seconds_total":              {"Time that writes took.", prometheus.CounterValue, []string{"device"}},
	"fs_writes_merged_total":              {"Writes that were merged with another.", prometheus.CounterValue, []string{"device"}},
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

// supplement shows the families that are not shown yet: of every container that runs, and of the machine's disks.
func (p *Provider) supplement(ctx context.Context, out chan<- prometheus.Metric, shown map[string]bool) {
	descs := map[string]*prometheus.Desc{}
	for name, f := range families {
		if !shown["container_"+name] {
			descs[name] = cadvisorDesc(name, f.help, f.labels...)
		}
	}
	show := func(labels []string, samples []sample) {
		for _, v := range samples {
			if desc := descs[v.family]; desc != nil {
				if m, err := prometheus.NewConstMetric(desc, families[v.family].kind, v.value, slices.Concat(labels, v.labels)...); err == nil {
					out <- m
				}
			}
		}
	}
	show([]string{"/", "", "", "", "", ""}, disks(p.machine))
	s, err := p.snapshot(ctx, true)
	if err != nil {
		return
	}
	specs := p.specs()
	for i := range s.Pods {
		ref := &s.Pods[i].PodRef
		spec := specs[ref.UID]
		if spec == nil {
			continue
		}
		for j, c := range s.pods[i].containers {
			cgroup, ok := p.machine.Child(p.podCgroup(spec), c.Id)
			if !ok {
				continue
			}
			image := c.GetImage().GetUserSpecifiedImage()
			if image == "" {
				image = c.GetImage().GetImage()
			}
			show([]string{cgroup, c.Id, image, s.Pods[i].Containers[j].Name, ref.Name, ref.Namespace}, details(p.machine, cgroup))
		}
	}
}

// disks tells how the machine's block devices did that were used since it was started.
func disks(m *measure.Machine) (out []sample) {
	for _, d := range m.Disks() {
		if d.ReadIOs+d.WriteIOs == 0 {
			continue
		}
		device := []string{"/dev/" + d.DeviceName}
		seconds := func(milliseconds uint64) float64 { return float64(milliseconds) / 1000 }
		for family, value := range map[string]float64{
			"fs_io_current": float64(d.IOsInProgress), "fs_io_time_seconds_total": seconds(d.IOsTotalTicks),
			"fs_io_time_weighted_seconds_total": seconds(d.WeightedIOTicks),
			"fs_read_seconds_total":             seconds(d.ReadTicks), "fs_write_seconds_total": seconds(d.WriteTicks),
			"fs_reads_merged_total": float64(d.ReadMerges), "fs_writes_merged_total": float64(d.WriteMerges),
			"fs_sector_reads_total": float64(d.ReadSectors), "fs_sector_writes_total": float64(d.WriteSectors),
		} {
			out = append(out, sample{family, value, device})
		}
	}
	return out
}

// details reads what there is to know of one container's cgroup. What the kernel does not tell is left out.
func details(m *measure.Machine, cgroup string) []sample {
	out := []sample{{"last_seen", float64(time.Now().Unix()), nil}}
	add := func(family string, n uint64, divisor float64) {
		out = append(out, sample{family, float64(n) / divisor, nil})
	}
	limit := func(family, controller, file string) { // shows a limit that is none as 0
		if n := m.Number(controller, cgroup, file); n != nil && measure.Limited(*n) {
			add(family, *n, 1)
		} else if n != nil {
			add(family, 0, 1)
		}
	}
	s := m.Stats(cgroup)
	add("cpu_user_seconds_total", s.CpuStats.CpuUsage.UsageInUsermode, 1e9)
	add("cpu_system_seconds_total", s.CpuStats.CpuUsage.UsageInKernelmode, 1e9)
	add("threads", s.PidsStats.Current, 1)
	add("threads_max", s.PidsStats.Limit, 1)
	memory, failures := s.MemoryStats, s.MemoryStats.Usage.Failcnt
	file, mapped, events, high := "file", "file_mapped", "memory.events", uint64(0)
	dir := m.Dir("memory", cgroup)
	if m.Unified() {
		failures, _ = fscommon.GetValueByKey(dir, events, "max") // 0 without the file
		high, _ = fscommon.GetValueByKey(dir, events, "high")
		unifiedLimits(m, cgroup, add, limit)
	} else {
		file, mapped, events = "total_cache", "total_mapped_file", "memory.oom_control" // and nothing is throttled
		legacyLimits(m, cgroup, add, limit)
	}
	if len(memory.Stats) > 0 {
		add("memory_cache", memory.Stats[file], 1)
		add("memory_mapped_file", memory.Stats[mapped], 1)
		add("memory_max_usage_bytes", memory.Usage.MaxUsage, 1)
		add("memory_failcnt", failures, 1)
		add("memory_events_max_total", failures, 1)
		add("memory_events_high_total", high, 1)
		if kills, err := fscommon.GetValueByKey(dir, events, "oom_kill"); err == nil {
			add("oom_events_total", kills, 1)
		}
	}
	out = append(out, traffic(m, &s.BlkioStats)...)
	return append(out, processes(m, cgroup)...)
}

func unifiedLimits(m *measure.Machine, cgroup string, add func(string, uint64, float64), limit func(family, controller, file string)) {
	if text, err := cgroups.ReadFile(m.Dir("cpu", cgroup), "cpu.max"); err == nil {
		quota, period, _ := strings.Cut(strings.TrimSpace(text), " ")
		if n, err := strconv.ParseUint(period, 10, 64); err == nil {
			add("spec_cpu_period", n, 1)
		}
		if n, err := strconv.ParseUint(quota, 10, 64); err == nil { // "max" is none
			add("spec_cpu_quota", n, 1)
		}
	}
	if weight := m.Number("cpu", cgroup, "cpu.weight"); weight != nil && *weight > 0 && *weight <= 10_000 {
		add("spec_cpu_shares", 2+(*weight-1)*262142/9999, 1)
	}
	limit("spec_memory_limit_bytes", "memory", "memory.max")
	limit("spec_memory_reservation_limit_bytes", "memory", "memory.high")
	limit("spec_memory_swap_limit_bytes", "memory", "memory.swap.max")
}

func legacyLimits(m *measure.Machine, cgroup string, add func(string, uint64, float64), limit func(family, controller, file string)) {
	for family, file := range map[string]string{"spec_cpu_period": "cpu.cfs_period_us", "spec_cpu_quota": "cpu.cfs_quota_us", "spec_cpu_shares": "cpu.shares"} {
		if n := m.Number("cpu", cgroup, file); n != nil && *n > 0 { // a quota of -1, which is none, is read as 0
			add(family, *n, 1)
		}
	}
	limit("spec_memory_limit_bytes", "memory", "memory.limit_in_bytes")
	limit("spec_memory_reservation_limit_bytes", "memory", "memory.soft_limit_in_bytes")
	limit("spec_memory_swap_limit_bytes", "memory", "memory.memsw.limit_in_bytes")
}

// traffic tells what a container has read and written, by device. Of a container that has not read or written anything the
// kernel names no device: that is 0, of the device "".
func traffic(m *measure.Machine, s *cgroups.BlkioStats) (out []sample) {
	for _, c := range []struct {
		unit    string
		entries []cgroups.BlkioStatEntry
	}{{"s_total", s.IoServicedRecursive}, {"s_bytes_total", s.IoServiceBytesRecursive}} {
		if len(c.entries) == 0 {
			c.entries = []cgroups.BlkioStatEntry{{Op: "Read"}, {Op: "Write"}}
		}
		for _, e := range c.entries {
			if e.Op != "Read" && e.Op != "Write" {
				continue
			}
			device, major, minor := "", "", ""
			if e.Major != 0 || e.Minor != 0 {
				major, minor = strconv.FormatUint(e.Major, 10), strconv.FormatUint(e.Minor, 10)
				device = m.Device(e.Major, e.Minor)
			}
			out = append(out, sample{"fs_" + strings.ToLower(e.Op) + c.unit, float64(e.Value), []string{device}})
			if c.unit == "s_bytes_total" {
				out = append(out, sample{"blkio_device_usage_total", float64(e.Value), []string{device, major, minor, e.Op}})
			}
		}
	}
	return out
}

// processes looks at the processes of a cgroup. One that ends meanwhile is left out.
func processes(m *measure.Machine, cgroup string) []sample {
	list, err := m.Processes(cgroup)
	if err != nil {
		return nil
	}
	files, sockets := 0, 0
	for _, p := range list {
		targets, err := p.FileDescriptorTargets()
		if err != nil {
			continue
		}
		files += len(targets)
		for _, target := range targets {
			if strings.HasPrefix(target, "socket:") {
				sockets++
			}
		}
	}
	out := []sample{{"processes", float64(len(list)), nil}, {"file_descriptors", float64(files), nil}, {"sockets", float64(sockets), nil}}
	if len(list) > 0 {
		if limits, err := list[0].Limits(); err == nil {
			out = append(out, sample{"ulimits_soft", float64(limits.OpenFiles), []string{"max_open_files"}})
		}
	}
	return out
}
