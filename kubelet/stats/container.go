package stats

import (
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

var cadvisorLabels = []string{"id", "name", "image", "container", "pod", "namespace"}

// cadvisorMetrics are the metrics of containers, under cadvisor's names without "container_", with what they are and their
// labels beside cadvisorLabels.
//
// Upstream: vendor/github.com/google/cadvisor/metrics/prometheus.go NewPrometheusCollector
var cadvisorMetrics = map[string][]string{
	"start_time_seconds":       {"Unix time at which the container was made."},
	"cpu_usage_seconds_total":  {"CPU time in seconds.", "cpu"},
	"cpu_system_seconds_total": {"CPU time in the kernel in seconds."},
	"cpu_user_seconds_total":   {"CPU time in programs in seconds."},

	"memory_usage_bytes":       {"Memory in use, caches included."},
	"memory_working_set_bytes": {"Working set."},
	"memory_rss":               {"Anonymous memory."},
	"memory_cache":             {"Page cache."},
	"memory_swap":              {"Swap in use."},
	"memory_failures_total":    {"Page faults.", "failure_type", "scope"},
	"memory_failcnt":           {"How often the memory reached its limit."},
	"oom_events_total":         {"Processes that were killed for lack of memory."},

	"fs_usage_bytes":        {"Bytes of the writable layer."},
	"fs_inodes_used":        {"Inodes of the writable layer."},
	"fs_reads_bytes_total":  {"Bytes read.", "device"},
	"fs_reads_total":        {"Reads that were completed.", "device"},
	"fs_writes_bytes_total": {"Bytes written.", "device"},
	"fs_writes_total":       {"Writes that were completed.", "device"},

	"network_receive_bytes_total":   {"Bytes received.", "interface"},
	"network_receive_errors_total":  {"Errors while receiving.", "interface"},
	"network_transmit_bytes_total":  {"Bytes sent.", "interface"},
	"network_transmit_errors_total": {"Errors while sending.", "interface"},

	"pressure_cpu_waiting_seconds_total":    {"Time that some tasks waited for a CPU."},
	"pressure_cpu_stalled_seconds_total":    {"Time that all tasks waited for a CPU."},
	"pressure_memory_waiting_seconds_total": {"Time that some tasks waited for memory."},
	"pressure_memory_stalled_seconds_total": {"Time that all tasks waited for memory."},
	"pressure_io_waiting_seconds_total":     {"Time that some tasks waited for input or output."},
	"pressure_io_stalled_seconds_total":     {"Time that all tasks waited for input or output."},

	"processes":               {"Processes."},
	"threads":                 {"Threads."},
	"file_descriptors":        {"Open file descriptors."},
	"sockets":                 {"Open sockets."},
	"spec_cpu_period":         {"Period of the CPU quota in microseconds."},
	"spec_cpu_quota":          {"CPU quota in microseconds."},
	"spec_cpu_shares":         {"CPU shares."},
	"spec_memory_limit_bytes": {"Limit of the memory, 0 for none."},
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
func details(m *measure.Machine, cgroup string) (out samples) {
	add := func(family string, n uint64, divisor float64) { out.add(family, metav1.Time{}, &n, divisor) }
	s := m.Stats(cgroup)
	add("cpu_user_seconds_total", s.CpuStats.CpuUsage.UsageInUsermode, 1e9)
	add("cpu_system_seconds_total", s.CpuStats.CpuUsage.UsageInKernelmode, 1e9)
	add("threads", s.PidsStats.Current, 1)
	memory, failures := s.MemoryStats, s.MemoryStats.Usage.Failcnt
	cache, events, limit := "total_cache", "memory.oom_control", "memory.limit_in_bytes"
	dir := m.Dir("memory", cgroup)
	if m.Unified() {
		cache, events, limit = "file", "memory.events", "memory.max"
		failures, _ = fscommon.GetValueByKey(dir, events, "max") // 0 without the file
		unifiedCPU(m, cgroup, add)
	} else {
		for family, file := range map[string]string{"spec_cpu_period": "cpu.cfs_period_us", "spec_cpu_quota": "cpu.cfs_quota_us", "spec_cpu_shares": "cpu.shares"} {
			if n := m.Number("cpu", cgroup, file); n != nil && *n > 0 { // a quota of -1, which is none, is read as 0
				add(family, *n, 1)
			}
		}
	}
	if n := m.Number("memory", cgroup, limit); n != nil && measure.Limited(*n) {
		add("spec_memory_limit_bytes", *n, 1)
	} else if n != nil {
		add("spec_memory_limit_bytes", 0, 1)
	}
	if len(memory.Stats) > 0 {
		add("memory_cache", memory.Stats[cache], 1)
		add("memory_failcnt", failures, 1)
		if kills, err := fscommon.GetValueByKey(dir, events, "oom_kill"); err == nil {
			add("oom_events_total", kills, 1)
		}
	}
	return slices.Concat(out, blockIO(m, &s.BlkioStats), processes(m, cgroup))
}

// unifiedCPU reads the CPU limits of cgroup v2.
func unifiedCPU(m *measure.Machine, cgroup string, add func(string, uint64, float64)) {
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
			out.add("fs_"+strings.ToLower(e.Op)+unit, metav1.Time{}, &e.Value, 1, device)
		}
	}
	return out
}

// processes looks at the processes of a cgroup. One that ends meanwhile is left out.
func processes(m *measure.Machine, cgroup string) (out samples) {
	list, err := m.Processes(cgroup)
	if err != nil {
		return nil
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
		out.add(family, metav1.Time{}, &n, 1)
	}
	return out
}
