package stats

import (
	"cmp"
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"minikubelet/kubelet/measure"
)

// Cadvisor answers /metrics/cadvisor: the statistics under cadvisor's names, and of containers what only the kernel tells. The
// runtime's own metrics are not asked for, as by upstream unless PodAndContainerStatsFromCRI is set: containerd measures ten
// pods a second, and CPU time in whole seconds.
//
// Upstream: pkg/kubelet/server/server.go InstallAuthRequiredHandlers
func (p *Provider) Cadvisor() http.Handler {
	return scrape(func(ctx context.Context, out chan<- prometheus.Metric) {
		p.machineMetrics(sink(out))
		p.containerMetrics(ctx, sink(out))
	})
}

var (
	machineLabels = []string{"machine_id", "system_uuid", "boot_id"}
	machineCores  = prometheus.NewDesc("machine_cpu_cores", "Logical CPU cores.", machineLabels, nil)
	machineMemory = prometheus.NewDesc("machine_memory_bytes", "Memory of the machine.", machineLabels, nil)
	machineSwap   = prometheus.NewDesc("machine_swap_bytes", "Swap of the machine.", machineLabels, nil)
)

func (p *Provider) machineMetrics(out sink) {
	memory, swap, err := p.machine.Memory()
	if err != nil {
		return
	}
	labels := []string{p.machine.Read("etc/machine-id"), p.machine.Read("sys/class/dmi/id/product_uuid"), p.machine.Read("proc/sys/kernel/random/boot_id")}
	out.gauge(machineCores, time.Time{}, new(uint64(p.machine.CPUs())), labels...)
	out.gauge(machineMemory, time.Time{}, new(uint64(memory)), labels...)
	out.gauge(machineSwap, time.Time{}, new(uint64(swap)), labels...)
}

// containerMetrics shows the node, as the cgroup "/", the cgroups of all pods, the kubelet and the runtime, pods, with an empty
// container label, and containers.
func (p *Provider) containerMetrics(ctx context.Context, out sink) {
	s, err := p.snapshot(ctx, false)
	if err != nil {
		return
	}
	node := &s.Node
	out.cadvisor([]string{"/", "", "", "", "", ""}, usage(node.CPU, node.Memory, node.Swap, node.IO), traffic(node.Network, s.devices), p.nodeFilesystem(node.Fs))
	for i, cgroup := range s.system {
		if c := &node.SystemContainers[i]; cgroup != "" && slices.Index(s.system, cgroup) == i { // kubelet and runtime may share one
			out.cadvisor([]string{cgroup, "", "", "", "", ""}, usage(c.CPU, c.Memory, c.Swap, c.IO))
		}
	}
	specs := p.specs()
	for i := range s.Pods {
		pod := &s.Pods[i]
		cgroup := ""
		if spec := specs[pod.PodRef.UID]; spec != nil {
			cgroup = p.podCgroup(spec)
		}
		devices := s.pods[i].devices
		if devices == nil && pod.Network != nil { // from the runtime, which counts no packets
			_, devices = p.machine.PodNetwork(cgroup)
		}
		out.cadvisor([]string{cgroup, "", "", "", pod.PodRef.Name, pod.PodRef.Namespace},
			usage(pod.CPU, pod.Memory, pod.Swap, pod.IO), traffic(pod.Network, devices))
		for j := range pod.Containers {
			c, known := &pod.Containers[j], s.pods[i].containers[j]
			image := cmp.Or(known.GetImage().GetUserSpecifiedImage(), known.GetImage().GetImage())
			id, list := filepath.Join(cgroup, known.Id), containerUsage(c)
			if own, ok := p.machine.Child(cgroup, known.Id); ok {
				id, list = own, slices.Concat(list, details(p.machine, own))
			}
			out.cadvisor([]string{id, known.Id, image, c.Name, pod.PodRef.Name, pod.PodRef.Namespace}, list)
		}
	}
}

// cadvisor sends samples that have these labels in common.
func (s sink) cadvisor(labels []string, lists ...samples) {
	for _, v := range slices.Concat(lists...) {
		kind := prometheus.GaugeValue
		if strings.HasSuffix(v.family, "_total") && v.family != "fs_inodes_total" || v.family == "memory_failcnt" {
			kind = prometheus.CounterValue
		}
		s.value(cadvisorDescs[v.family], kind, v.at, v.value, slices.Concat(labels, v.labels))
	}
}

// nodeFilesystem tells how full the node's filesystem is, by the name of its device.
func (p *Provider) nodeFilesystem(f *statsapi.FsStats) (out samples) {
	_, number, err := measure.Filesystem(p.opts.RootDir)
	if err != nil || f == nil {
		return nil
	}
	device := p.machine.Device(uint64(unix.Major(number)), uint64(unix.Minor(number)))
	out.add("fs_usage_bytes", f.Time, f.UsedBytes, 1, device)
	out.add("fs_limit_bytes", f.Time, f.CapacityBytes, 1, device)
	out.add("fs_inodes_total", f.Time, f.Inodes, 1, device)
	out.add("fs_inodes_free", f.Time, f.InodesFree, 1, device)
	return out
}

func (p *Provider) podCgroup(pod *corev1.Pod) string {
	if p.opts.PodCgroup == nil {
		return ""
	}
	return p.opts.PodCgroup(pod)
}

func containerUsage(c *statsapi.ContainerStats) samples {
	out := usage(c.CPU, c.Memory, c.Swap, c.IO)
	out.add("start_time_seconds", metav1.Time{}, new(uint64(max(0, c.StartTime.Unix()))), 1)
	if c.Rootfs != nil {
		out.add("fs_usage_bytes", c.Rootfs.Time, c.Rootfs.UsedBytes, 1, "")
		out.add("fs_inodes_used", c.Rootfs.Time, c.Rootfs.InodesUsed, 1)
	}
	return out
}

func usage(cpu *statsapi.CPUStats, memory *statsapi.MemoryStats, swap *statsapi.SwapStats, io *statsapi.IOStats) (out samples) {
	out.now("last_seen", uint64(time.Now().Unix()), 1)
	if cpu != nil {
		out.add("cpu_usage_seconds_total", cpu.Time, cpu.UsageCoreNanoSeconds, 1e9, "total")
		out.pressure("cpu", cpu.Time, cpu.PSI)
	}
	if memory != nil {
		out.add("memory_usage_bytes", memory.Time, memory.UsageBytes, 1)
		out.add("memory_working_set_bytes", memory.Time, memory.WorkingSetBytes, 1)
		out.add("memory_rss", memory.Time, memory.RSSBytes, 1)
		for _, scope := range []string{"container", "hierarchy"} {
			out.add("memory_failures_total", memory.Time, memory.PageFaults, 1, "pgfault", scope)
			out.add("memory_failures_total", memory.Time, memory.MajorPageFaults, 1, "pgmajfault", scope)
		}
		out.pressure("memory", memory.Time, memory.PSI)
	}
	if swap != nil {
		out.add("memory_swap", swap.Time, swap.SwapUsageBytes, 1)
	}
	if io != nil {
		out.pressure("io", io.Time, io.PSI)
	}
	return out
}

func (s *samples) pressure(resource string, at metav1.Time, psi *statsapi.PSIStats) {
	if psi != nil {
		s.add("pressure_"+resource+"_waiting_seconds_total", at, &psi.Some.Total, 1e9)
		s.add("pressure_"+resource+"_stalled_seconds_total", at, &psi.Full.Total, 1e9)
	}
}

// traffic tells what went through interfaces; packets are counted by the kernel alone.
func traffic(n *statsapi.NetworkStats, packets procfs.NetDev) (out samples) {
	if n == nil {
		return nil
	}
	for _, i := range n.Interfaces {
		out.add("network_receive_bytes_total", n.Time, i.RxBytes, 1, i.Name)
		out.add("network_receive_errors_total", n.Time, i.RxErrors, 1, i.Name)
		out.add("network_transmit_bytes_total", n.Time, i.TxBytes, 1, i.Name)
		out.add("network_transmit_errors_total", n.Time, i.TxErrors, 1, i.Name)
		if k, ok := packets[i.Name]; ok {
			out.now("network_receive_packets_total", k.RxPackets, 1, i.Name)
			out.now("network_receive_packets_dropped_total", k.RxDropped, 1, i.Name)
			out.now("network_transmit_packets_total", k.TxPackets, 1, i.Name)
			out.now("network_transmit_packets_dropped_total", k.TxDropped, 1, i.Name)
		}
	}
	return out
}
