package criserver

import (
	"github.com/opencontainers/cgroups"
	"github.com/vishvananda/netlink"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// metrics are those of containers and pods.
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
