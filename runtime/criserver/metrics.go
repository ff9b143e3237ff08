package criserver

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/vishvananda/netlink"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/stats"
)

// measured is what the metrics of a container, or of a pod, are made of.
type measured struct {
	stats.Usage
	labels                    []string // the values of metricLabels
	now                       time.Time
	startedAt                 time.Time
	resources                 *runtimeapi.LinuxContainerResources
	processes, files, sockets uint64
	fs                        syscall.Statfs_t
	fsUsage                   uint64
	interfaces                []*netlink.LinkAttrs
}

// metricLabels are on every metric, as cAdvisor has them: the cgroup, the runtime's ID and the image; then what the kubelet
// calls the container, which a pod's own metrics leave empty, its pod and the pod's namespace.
var metricLabels = []string{"id", "name", "image", "container", "pod", "namespace"}

// sample is one value of a metric, with the labels that only this metric has.
type sample struct {
	value  uint64
	labels []string
}

// metric is one that the kubelet shows at /metrics/cadvisor, by cAdvisor's name. Values are
// whole numbers in the CRI, also those of seconds.
type metric struct {
	name, help string
	kind       runtimeapi.MetricType
	labels     []string // beside metricLabels
	of         func(measured) []sample
}

// counter and gauge are metrics of one value.
var counter, gauge = single(runtimeapi.MetricType_COUNTER), single(runtimeapi.MetricType_GAUGE)

func single(kind runtimeapi.MetricType) func(name, help string, of func(measured) uint64) metric {
	return func(name, help string, of func(measured) uint64) metric {
		return metric{name, help, kind, nil, func(m measured) []sample { return []sample{{value: of(m)}} }}
	}
}

// perInterface is a metric with a value for each network interface, which only pods have.
func perInterface(name, help string, of func(*netlink.LinkStatistics) uint64) metric {
	return metric{name, help, runtimeapi.MetricType_COUNTER, []string{"interface"}, func(m measured) (all []sample) {
		for _, i := range m.interfaces {
			all = append(all, sample{of(i.Statistics), []string{i.Name}})
		}
		return all
	}}
}

// perDevice is a metric with a value for each block device.
func perDevice(name, help, operation string, of func(cgroups.BlkioStats) []cgroups.BlkioStatEntry) metric {
	return metric{name, help, runtimeapi.MetricType_COUNTER, []string{"device"}, func(m measured) (all []sample) {
		for _, d := range of(m.BlkioStats) {
			if d.Op == operation {
				all = append(all, sample{d.Value, []string{fmt.Sprintf("%d:%d", d.Major, d.Minor)}})
			}
		}
		return all
	}}
}

// pressure is the time that some tasks, or all of them, waited for a resource, where the kernel tells it.
func pressure(name, help string, of func(measured) *cgroups.PSIStats, full bool) metric {
	return metric{name, help, runtimeapi.MetricType_COUNTER, nil, func(m measured) []sample {
		psi := of(m)
		switch {
		case psi == nil:
			return nil
		case full:
			return []sample{{value: psi.Full.Total / 1e6}}
		}
		return []sample{{value: psi.Some.Total / 1e6}}
	}}
}

// metrics are those of containers and pods. critest asks for every one but those of pressure.
var metrics = []metric{
	counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", func(m measured) uint64 { return m.CpuStats.CpuUsage.TotalUsage / 1e9 }),
	counter("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", func(m measured) uint64 { return m.CpuStats.CpuUsage.UsageInUsermode / 1e9 }),
	counter("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", func(m measured) uint64 { return m.CpuStats.CpuUsage.UsageInKernelmode / 1e9 }),
	counter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", func(m measured) uint64 { return m.CpuStats.ThrottlingData.Periods }),
	counter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", func(m measured) uint64 { return m.CpuStats.ThrottlingData.ThrottledPeriods }),
	counter("container_cpu_cfs_throttled_seconds_total", "Total time that the container was throttled.", func(m measured) uint64 { return m.CpuStats.ThrottlingData.ThrottledTime / 1e9 }),

	gauge("container_memory_usage_bytes", "Memory in use, of whatever kind.", func(m measured) uint64 { return m.MemoryStats.Usage.Usage }),
	gauge("container_memory_max_usage_bytes", "The most memory that was in use.", func(m measured) uint64 { return m.MemoryStats.Usage.MaxUsage }),
	gauge("container_memory_working_set_bytes", "Memory in use that cannot just be dropped.", func(m measured) uint64 { return m.WorkingSet() }),
	gauge("container_memory_rss", "Anonymous memory.", func(m measured) uint64 { return m.MemoryStats.Stats["anon"] }),
	gauge("container_memory_cache", "Page cache.", func(m measured) uint64 { return m.MemoryStats.Cache }),
	gauge("container_memory_mapped_file", "Mapped files.", func(m measured) uint64 { return m.MemoryStats.Stats["file_mapped"] }),
	gauge("container_memory_kernel_usage", "Memory that the kernel uses for it.", func(m measured) uint64 { return m.MemoryStats.KernelUsage.Usage }),
	gauge("container_memory_swap", "Swap in use.", func(m measured) uint64 { return m.MemoryStats.SwapOnlyUsage.Usage }),
	counter("container_memory_failcnt", "How often memory usage hit the limit.", func(m measured) uint64 { return m.MemoryStats.Usage.Failcnt }),
	{"container_memory_failures_total", "Page faults.", runtimeapi.MetricType_COUNTER, []string{"failure_type", "scope"}, failures},
	counter("container_oom_events_total", "Processes killed for memory.", func(m measured) uint64 { return m.OOMKills }),

	gauge("container_processes", "Processes.", func(m measured) uint64 { return m.processes }),
	gauge("container_threads", "Threads.", func(m measured) uint64 { return m.PidsStats.Current }),
	gauge("container_threads_max", "Most threads allowed; 0 for no limit.", func(m measured) uint64 { return m.PidsStats.Limit }),
	gauge("container_file_descriptors", "Open file descriptors.", func(m measured) uint64 { return m.files }),
	gauge("container_sockets", "Open sockets.", func(m measured) uint64 { return m.sockets }),

	gauge("container_last_seen", "When it was measured.", func(m measured) uint64 { return uint64(m.now.Unix()) }),

	gauge("container_start_time_seconds", "When it was started, since the epoch.", func(m measured) uint64 { return uint64(max(m.startedAt.Unix(), 0)) }),
	gauge("container_spec_cpu_period", "CPU period.", func(m measured) uint64 { return uint64(m.resources.GetCpuPeriod()) }),
	gauge("container_spec_cpu_quota", "CPU quota.", func(m measured) uint64 { return uint64(max(m.resources.GetCpuQuota(), 0)) }),
	gauge("container_spec_cpu_shares", "CPU shares.", func(m measured) uint64 { return uint64(m.resources.GetCpuShares()) }),
	gauge("container_spec_memory_limit_bytes", "Memory limit; 0 for none.", func(m measured) uint64 { return m.MemoryStats.Usage.Limit }),
	gauge("container_spec_memory_swap_limit_bytes", "Limit of memory and swap; 0 for none.", func(m measured) uint64 { return uint64(max(m.resources.GetMemorySwapLimitInBytes(), 0)) }),

	gauge("container_fs_usage_bytes", "What the writable layer takes.", func(m measured) uint64 { return m.fsUsage }),
	gauge("container_fs_limit_bytes", "Size of the file system of writable layers.", func(m measured) uint64 { return m.fs.Blocks * uint64(m.fs.Bsize) }),
	gauge("container_fs_inodes_total", "Inodes of that file system.", func(m measured) uint64 { return m.fs.Files }),
	gauge("container_fs_inodes_free", "Free inodes of that file system.", func(m measured) uint64 { return m.fs.Ffree }),
	perDevice("container_fs_reads_bytes_total", "Bytes read.", "Read", func(b cgroups.BlkioStats) []cgroups.BlkioStatEntry { return b.IoServiceBytesRecursive }),
	perDevice("container_fs_reads_total", "Reads.", "Read", func(b cgroups.BlkioStats) []cgroups.BlkioStatEntry { return b.IoServicedRecursive }),
	perDevice("container_fs_writes_bytes_total", "Bytes written.", "Write", func(b cgroups.BlkioStats) []cgroups.BlkioStatEntry { return b.IoServiceBytesRecursive }),
	perDevice("container_fs_writes_total", "Writes.", "Write", func(b cgroups.BlkioStats) []cgroups.BlkioStatEntry { return b.IoServicedRecursive }),
	{"container_blkio_device_usage_total", "Bytes read from and written to block devices.", runtimeapi.MetricType_COUNTER, []string{"device", "major", "minor", "operation"}, blockIO},

	perInterface("container_network_receive_bytes_total", "Bytes received.", func(i *netlink.LinkStatistics) uint64 { return i.RxBytes }),
	perInterface("container_network_receive_packets_total", "Packets received.", func(i *netlink.LinkStatistics) uint64 { return i.RxPackets }),
	perInterface("container_network_receive_packets_dropped_total", "Packets dropped while receiving.", func(i *netlink.LinkStatistics) uint64 { return i.RxDropped }),
	perInterface("container_network_receive_errors_total", "Errors while receiving.", func(i *netlink.LinkStatistics) uint64 { return i.RxErrors }),
	perInterface("container_network_transmit_bytes_total", "Bytes sent.", func(i *netlink.LinkStatistics) uint64 { return i.TxBytes }),
	perInterface("container_network_transmit_packets_total", "Packets sent.", func(i *netlink.LinkStatistics) uint64 { return i.TxPackets }),
	perInterface("container_network_transmit_packets_dropped_total", "Packets dropped while sending.", func(i *netlink.LinkStatistics) uint64 { return i.TxDropped }),
	perInterface("container_network_transmit_errors_total", "Errors while sending.", func(i *netlink.LinkStatistics) uint64 { return i.TxErrors }),

	pressure("container_pressure_cpu_waiting_seconds_total", "Time that some tasks waited for a CPU.", func(m measured) *cgroups.PSIStats { return m.CpuStats.PSI }, false),
	pressure("container_pressure_cpu_stalled_seconds_total", "Time that all tasks waited for a CPU.", func(m measured) *cgroups.PSIStats { return m.CpuStats.PSI }, true),
	pressure("container_pressure_memory_waiting_seconds_total", "Time that some tasks waited for memory.", func(m measured) *cgroups.PSIStats { return m.MemoryStats.PSI }, false),
	pressure("container_pressure_memory_stalled_seconds_total", "Time that all tasks waited for memory.", func(m measured) *cgroups.PSIStats { return m.MemoryStats.PSI }, true),
	pressure("container_pressure_io_waiting_seconds_total", "Time that some tasks waited for I/O.", func(m measured) *cgroups.PSIStats { return m.BlkioStats.PSI }, false),
	pressure("container_pressure_io_stalled_seconds_total", "Time that all tasks waited for I/O.", func(m measured) *cgroups.PSIStats { return m.BlkioStats.PSI }, true),
}

// ListMetricDescriptors names the metrics and what their labels mean.
func (s *Server) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	response := &runtimeapi.ListMetricDescriptorsResponse{}
	for _, m := range metrics {
		keys := slices.Concat(metricLabels, m.labels)
		response.Descriptors = append(response.Descriptors, &runtimeapi.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: keys})
	}
	return response, nil
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics for answers of any length.
func (s *Server) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, stream runtimeapi.RuntimeService_StreamPodSandboxMetricsServer) error {
	all, _ := s.ListPodSandboxMetrics(stream.Context(), nil)
	return inPieces(all.GetPodMetrics(), func(part []*runtimeapi.PodSandboxMetrics) error {
		return stream.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: part})
	})
}

// ListPodSandboxMetrics measures all pods that run.
func (s *Server) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	response := &runtimeapi.ListPodSandboxMetricsResponse{}
	running, disk := s.runningSandboxes(ctx, nil)
	for _, sb := range running {
		metadata := sb.Config.Config.GetMetadata()
		m := s.measured(s.podUsage(sb), s.podCgroup(sb), sb.ID, "", "", metadata.GetName(), metadata.GetNamespace())
		m.startedAt, m.resources, m.interfaces = sb.Config.CreatedAt, sb.State().Resources, sb.interfaces()
		pod := &runtimeapi.PodSandboxMetrics{PodSandboxId: sb.ID, Metrics: m.metrics()}
		for _, c := range s.containersOf(sb.ID) {
			dir, image := oci.CgroupDir(c.Config.CgroupsPath), c.Config.Config.GetImage()
			usage, err := s.cgroups().Read(dir)
			if err != nil {
				continue // it has ended
			}
			m := s.measured(usage, dir, c.ID, cmp.Or(image.GetUserSpecifiedImage(), image.GetImage()), c.Config.Config.GetMetadata().GetName(), metadata.GetName(), metadata.GetNamespace())
			m.startedAt, m.resources, m.fsUsage = c.State().StartedAt, c.State().Resources, uint64(disk[c.ID].Bytes)
			m.processes, m.files, m.sockets = s.cgroups().Open(dir)
			pod.ContainerMetrics = append(pod.ContainerMetrics, &runtimeapi.ContainerMetrics{ContainerId: c.ID, Metrics: m.metrics()})
		}
		response.PodMetrics = append(response.PodMetrics, pod)
	}
	return response, nil
}

// measured is what containers and pods have in common, with the values of metricLabels.
func (s *Server) measured(usage stats.Usage, labels ...string) measured {
	m := measured{Usage: usage, labels: labels, now: time.Now()}
	_ = syscall.Statfs(s.path("images"), &m.fs)
	return m
}

// metrics are the values of all metrics.
func (m measured) metrics() []*runtimeapi.Metric {
	var all []*runtimeapi.Metric
	for _, metric := range metrics {
		for _, one := range metric.of(m) {
			all = append(all, &runtimeapi.Metric{
				Name: metric.name, Timestamp: m.now.UnixNano(), MetricType: metric.kind,
				LabelValues: slices.Concat(m.labels, one.labels), Value: value(one.value),
			})
		}
	}
	return all
}

// blockIO has the labels of cAdvisor.
func blockIO(m measured) (all []sample) {
	for _, d := range m.BlkioStats.IoServiceBytesRecursive {
		if d.Op == "Read" || d.Op == "Write" {
			all = append(all, sample{d.Value, []string{"", fmt.Sprint(d.Major), fmt.Sprint(d.Minor), d.Op}})
		}
	}
	return all
}

func failures(m measured) []sample {
	faults := m.MemoryStats.Stats
	return []sample{{faults["pgfault"], []string{"pgfault", "hierarchy"}}, {faults["pgmajfault"], []string{"pgmajfault", "hierarchy"}}}
}
