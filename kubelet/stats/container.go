package stats

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fscommon"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/kubelet/measure"
)

// sample is one value under one of cadvisor's names.
type sample struct {
	family string // a key of cadvisorMetrics
	at     time.Time
	value  float64
	labels []string // beside cadvisorLabels
}

// samples are those of one container.
type samples []sample

// add adds n, divided, unless it is not known.
func (s *samples) add(family string, at metav1.Time, n *uint64, divisor float64, labels ...string) {
	if n != nil {
		*s = append(*s, sample{family, at.Time, float64(*n) / divisor, labels})
	}
}

// now adds what is read for this scrape, which needs no time of its own.
func (s *samples) now(family string, n uint64, divisor float64, labels ...string) {
	s.add(family, metav1.Time{}, &n, divisor, labels...)
}

var cadvisorLabels = []string{"id", "name", "image", "container", "pod", "namespace"}

// cadvisorMetrics are the metrics of containers, under cadvisor's names without "container_", with what they are and their
// labels beside cadvisorLabels.
//
// Upstream: vendor/github.com/google/cadvisor/metrics/prometheus.go NewPrometheusCollector
var cadvisorMetrics = map[string][]string{
	"start_time_seconds":       {"Unix time at which the container was made."},
	"last_seen":                {"Unix time at which it was last looked at."},
	"cpu_usage_seconds_total":  {"CPU time in seconds.", "cpu"},
	"cpu_system_seconds_total": {"CPU time in the kernel in seconds."},
	"cpu_user_seconds_total":   {"CPU time in programs in seconds."},

	"cpu_cfs_periods_total":           {"Periods of the CPU quota that passed."},
	"cpu_cfs_throttled_periods_total": {"Periods in which the CPU quota was used up."},
	"cpu_cfs_throttled_seconds_total": {"Time that tasks waited for the CPU quota's next period."},

	"memory_usage_bytes":               {"Memory in use, caches included."},
	"memory_max_usage_bytes":           {"The most memory that was in use."},
	"memory_working_set_bytes":         {"Working set."},
	"memory_rss":                       {"Anonymous memory."},
	"memory_cache":                     {"Page cache."},
	"memory_mapped_file":               {"Files that are mapped."},
	"memory_kernel_usage":              {"Memory that the kernel uses for it."},
	"memory_total_active_file_bytes":   {"Page cache that was touched lately."},
	"memory_total_inactive_file_bytes": {"Page cache that was not touched lately."},
	"memory_swap":                      {"Swap in use."},
	"memory_failures_total":            {"Page faults.", "failure_type", "scope"},
	"memory_failcnt":                   {"How often the memory reached its limit."},
	"memory_events_high_total":         {"How often the memory was throttled at memory.high; 0 on cgroup v1."},
	"memory_events_max_total":          {"How often the memory reached memory.max; 0 on cgroup v1."},
	"oom_events_total":                 {"Processes that were killed for lack of memory."},

	"fs_usage_bytes":           {"Bytes of the writable layer, or in use on the node's filesystem.", "device"},
	"fs_limit_bytes":           {"Bytes that the node's filesystem holds.", "device"},
	"fs_inodes_total":          {"Inodes that the node's filesystem holds.", "device"},
	"fs_inodes_free":           {"Inodes that are free on the node's filesystem.", "device"},
	"fs_inodes_used":           {"Inodes of the writable layer."},
	"fs_reads_bytes_total":     {"Bytes read.", "device"},
	"fs_reads_total":           {"Reads that were completed.", "device"},
	"fs_writes_bytes_total":    {"Bytes written.", "device"},
	"fs_writes_total":          {"Writes that were completed.", "device"},
	"blkio_device_usage_total": {"Bytes read and written, by kind of operation.", "device", "major", "minor", "operation"},

	"network_receive_bytes_total":            {"Bytes received.", "interface"},
	"network_receive_packets_total":          {"Packets received.", "interface"},
	"network_receive_packets_dropped_total":  {"Packets that were dropped when they were received.", "interface"},
	"network_receive_errors_total":           {"Errors while receiving.", "interface"},
	"network_transmit_bytes_total":           {"Bytes sent.", "interface"},
	"network_transmit_packets_total":         {"Packets sent.", "interface"},
	"network_transmit_packets_dropped_total": {"Packets that were dropped instead of sent.", "interface"},
	"network_transmit_errors_total":          {"Errors while sending.", "interface"},

	"pressure_cpu_waiting_seconds_total":    {"Time that some tasks waited for a CPU."},
	"pressure_cpu_stalled_seconds_total":    {"Time that all tasks waited for a CPU."},
	"pressure_memory_waiting_seconds_total": {"Time that some tasks waited for memory."},
	"pressure_memory_stalled_seconds_total": {"Time that all tasks waited for memory."},
	"pressure_io_waiting_seconds_total":     {"Time that some tasks waited for input or output."},
	"pressure_io_stalled_seconds_total":     {"Time that all tasks waited for input or output."},

	"processes":        {"Processes."},
	"threads":          {"Threads."},
	"threads_max":      {"Threads that there may be, 0 for any number."},
	"file_descriptors": {"Open file descriptors."},
	"sockets":          {"Open sockets."},
	"ulimits_soft":     {"Soft limit of the first process, -1 for none.", "ulimit"},

	"spec_cpu_period":                     {"Period of the CPU quota in microseconds."},
	"spec_cpu_quota":                      {"CPU quota in microseconds."},
	"spec_cpu_shares":                     {"CPU shares."},
	"spec_memory_limit_bytes":             {"Limit of the memory, 0 for none."},
	"spec_memory_reservation_limit_bytes": {"Memory that is kept for it, 0 for none."},
	"spec_memory_swap_limit_bytes":        {"Limit of the swap, on cgroup v1 of memory and swap together; 0 for none."},
}

var cadvisorDescs = func() map[string]*prometheus.Desc {
	out := map[string]*prometheus.Desc{}
	for name, m := range cadvisorMetrics {
		out[name] = prometheus.NewDesc("container_"+name, m[0], slices.Concat(cadvisorLabels, m[1:]), nil)
	}
	return out
}()

// details reads what there is to know of one container's cgroup beside its statistics. What the kernel does not tell is
// left out.
func details(m *measure.Machine, cgroup string) samples {
	s := m.Stats(cgroup)
	return slices.Concat(cpuDetails(m, cgroup, &s.CpuStats), memoryDetails(m, cgroup, &s.MemoryStats), blockIO(m, &s.BlkioStats), processes(m, cgroup, &s.PidsStats))
}

func cpuDetails(m *measure.Machine, cgroup string, s *cgroups.CpuStats) (out samples) {
	out.now("cpu_user_seconds_total", s.CpuUsage.UsageInUsermode, 1e9)
	out.now("cpu_system_seconds_total", s.CpuUsage.UsageInKernelmode, 1e9)
	period, quota, shares := cpuSpec(m, cgroup)
	for family, n := range map[string]uint64{"spec_cpu_period": period, "spec_cpu_quota": quota, "spec_cpu_shares": shares} {
		if n > 0 {
			out.now(family, n, 1)
		}
	}
	if quota > 0 {
		out.now("cpu_cfs_periods_total", s.ThrottlingData.Periods, 1)
		out.now("cpu_cfs_throttled_periods_total", s.ThrottlingData.ThrottledPeriods, 1)
		out.now("cpu_cfs_throttled_seconds_total", s.ThrottlingData.ThrottledTime, 1e9)
	}
	return out
}

// cpuSpec reads the CPU limits of a cgroup, 0 for none.
func cpuSpec(m *measure.Machine, cgroup string) (period, quota, shares uint64) {
	number := func(file string) uint64 {
		if n := m.Number("cpu", cgroup, file); n != nil { // a quota of -1, which is none, is read as 0
			return *n
		}
		return 0
	}
	if !m.Unified() {
		return number("cpu.cfs_period_us"), number("cpu.cfs_quota_us"), number("cpu.shares")
	}
	if text, err := cgroups.ReadFile(m.Dir("cpu", cgroup), "cpu.max"); err == nil {
		first, second, _ := strings.Cut(strings.TrimSpace(text), " ")
		quota, _ = strconv.ParseUint(first, 10, 64) // "max" is none
		period, _ = strconv.ParseUint(second, 10, 64)
	}
	if weight := number("cpu.weight"); weight > 0 && weight <= 10_000 {
		shares = 2 + (weight-1)*262142/9999
	}
	return period, quota, shares
}

// memoryNames are what files of memory, and keys of memory.stat, are called in a version of cgroups.
type memoryNames struct{ cache, mapped, active, inactive, events, limit, reservation, swap string }

var (
	memoryV1 = memoryNames{
		"total_cache", "total_mapped_file", "total_active_file", "total_inactive_file",
		"memory.oom_control", "memory.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes",
	}
	memoryV2 = memoryNames{"file", "file_mapped", "active_file", "inactive_file", "memory.events", "memory.max", "memory.min", "memory.swap.max"}
)

func memoryDetails(m *measure.Machine, cgroup string, s *cgroups.MemoryStats) (out samples) {
	names := memoryV1
	if m.Unified() {
		names = memoryV2
	}
	if m.Number("memory", cgroup, names.limit) == nil || len(s.Stats) == 0 {
		return nil
	}
	for family, file := range map[string]string{
		"spec_memory_limit_bytes": names.limit, "spec_memory_reservation_limit_bytes": names.reservation, "spec_memory_swap_limit_bytes": names.swap,
	} {
		n := m.Number("memory", cgroup, file)
		if n == nil || !measure.Limited(*n) {
			n = new(uint64(0))
		}
		out.now(family, *n, 1)
	}
	for family, key := range map[string]string{
		"memory_cache": names.cache, "memory_mapped_file": names.mapped, "memory_total_active_file_bytes": names.active, "memory_total_inactive_file_bytes": names.inactive,
	} {
		out.now(family, s.Stats[key], 1)
	}
	dir, failures, kernel := m.Dir("memory", cgroup), s.Usage.Failcnt, s.KernelUsage.Usage
	var high, highest uint64
	if m.Unified() { // 0 without the file
		high, _ = fscommon.GetValueByKey(dir, names.events, "high")
		highest, _ = fscommon.GetValueByKey(dir, names.events, "max")
		failures, kernel = highest, s.Stats["kernel"]
	}
	out.now("memory_events_high_total", high, 1)
	out.now("memory_events_max_total", highest, 1)
	out.now("memory_failcnt", failures, 1)
	out.now("memory_kernel_usage", kernel, 1)
	out.now("memory_max_usage_bytes", s.Usage.MaxUsage, 1)
	if kills, err := fscommon.GetValueByKey(dir, names.events, "oom_kill"); err == nil {
		out.now("oom_events_total", kills, 1)
	}
	return out
}

// blockIO tells what a container has read and written, by device. Of a container that has not read or written anything the
// kernel names no device: that is 0, of the device "".
func blockIO(m *measure.Machine, s *cgroups.BlkioStats) (out samples) {
	for unit, entries := range map[string][]cgroups.BlkioStatEntry{"s_total": s.IoServicedRecursive, "s_bytes_total": s.IoServiceBytesRecursive} {
		if len(entries) == 0 {
			entries = []cgroups.BlkioStatEntry{{Op: "Read"}, {Op: "Write"}}
		}
		for _, e := range entries {
			if e.Op != "Read" && e.Op != "Write" {
				continue
			}
			device := ""
			if e.Major != 0 || e.Minor != 0 {
				device = m.Device(e.Major, e.Minor)
			}
			out.now("fs_"+strings.ToLower(e.Op)+unit, e.Value, 1, device)
		}
	}
	for _, e := range s.IoServiceBytesRecursive {
		out.now("blkio_device_usage_total", e.Value, 1, m.Device(e.Major, e.Minor), fmt.Sprint(e.Major), fmt.Sprint(e.Minor), e.Op)
	}
	return out
}

// processes looks at the processes of a cgroup. One that ends meanwhile is left out.
func processes(m *measure.Machine, cgroup string, s *cgroups.PidsStats) (out samples) {
	out.now("threads", s.Current, 1)
	out.now("threads_max", s.Limit, 1)
	list, err := m.Processes(cgroup)
	if err != nil {
		return out
	}
	var files, sockets uint64
	for _, p := range list {
		targets, _ := p.FileDescriptorTargets()
		files += uint64(len(targets))
		for _, target := range targets {
			if strings.HasPrefix(target, "socket:") {
				sockets++
			}
		}
	}
	for family, n := range map[string]uint64{"processes": uint64(len(list)), "file_descriptors": files, "sockets": sockets} {
		out.now(family, n, 1)
	}
	if len(list) > 0 {
		if limits, err := list[0].Limits(); err == nil {
			open := float64(limits.OpenFiles)
			if limits.OpenFiles == math.MaxUint64 { // unlimited
				open = -1
			}
			out = append(out, sample{"ulimits_soft", time.Time{}, open, []string{"max_open_files"}})
		}
	}
	return out
}
