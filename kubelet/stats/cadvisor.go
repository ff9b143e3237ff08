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
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Cadvisor answers /metrics/cadvisor: what the runtime collects under cadvisor's names, or, with a runtime that
// collects nothing, the statistics here under these names; and what only the kernel tells.
//
// Upstream: pkg/kubelet/metrics/collectors/cri_metrics.go, pkg/kubelet/server/server.go InstallAuthRequiredHandlers
func (p *Provider) Cadvisor() http.Handler {
	return scrape(func(ctx context.Context, out chan<- prometheus.Metric) {
		p.machineMetrics(sink(out))
		shown := map[string]bool{}
		answer, err := p.opts.CRI.Runtime.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
		fromRuntime := err == nil && len(answer.PodMetrics) > 0
		if fromRuntime {
			shown = p.criMetrics(ctx, answer.PodMetrics, out)
		} else {
			klog.FromContext(ctx).V(4).Info("The runtime has no metrics of its own", "err", err)
		}
		p.kernelMetrics(ctx, out, shown, !fromRuntime)
	})
}

// criMetrics hands the runtime's metrics on, and returns their names. What they are called and labelled is in the
// descriptors.
func (p *Provider) criMetrics(ctx context.Context, pods []*runtimeapi.PodSandboxMetrics, out chan<- prometheus.Metric) map[string]bool {
	shown := map[string]bool{}
	answer, err := p.opts.CRI.Runtime.ListMetricDescriptors(ctx, &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		klog.FromContext(ctx).Error(err, "The runtime has metrics but does not say what they are")
		return shown
	}
	descs := map[string]*prometheus.Desc{}
	for _, d := range answer.Descriptors {
		if d != nil {
			descs[d.Name] = prometheus.NewDesc(d.Name, d.Help, d.LabelKeys, nil)
		}
	}
	precise, swapping := p.cpuTimes(ctx), p.hasSwap()
	send := func(metrics []*runtimeapi.Metric, cpu *statsapi.CPUStats) {
		for _, m := range metrics {
			desc := descs[m.GetName()]
			if desc == nil || m.Value == nil {
				continue
			}
			kind := prometheus.CounterValue
			if m.MetricType == runtimeapi.MetricType_GAUGE {
				kind = prometheus.GaugeValue
			}
			value, stamp := float64(m.Value.Value), time.Unix(0, m.Timestamp)
			if m.Name == swapUsage && !swapping {
				value = 0
			}
			if m.Name == cpuTime && cpu != nil {
				value, stamp = float64(*cpu.UsageCoreNanoSeconds)/1e9, cpu.Time.Time
			}
			metric, err := prometheus.NewConstMetric(desc, kind, value, m.LabelValues...)
			if err != nil {
				klog.FromContext(ctx).V(5).Info("The runtime sent a metric that is none", "name", m.Name, "err", err)
				continue
			}
			if m.Timestamp > 0 {
				metric = prometheus.NewMetricWithTimestamp(stamp, metric)
			}
			out <- metric
			shown[m.Name] = true
		}
	}
	for _, pod := range pods {
		send(pod.GetMetrics(), nil)
		for _, container := range pod.GetContainerMetrics() {
			send(container.GetMetrics(), precise[container.GetContainerId()])
		}
	}
	return shown
}

// swapUsage is the one metric that a runtime may confuse: on cgroup v1 the kernel counts memory and swap together, on a
// machine without swap too.
const swapUsage = "container_memory_swap"

// hasSwap reports whether the machine has any.
func (p *Provider) hasSwap() bool {
	_, swap, err := p.machine.Memory()
	return err != nil || swap > 0
}

// cpuTime is the one metric whose unit does not fit into the runtime's whole numbers: a rate of seconds tells little.
const cpuTime = "container_cpu_usage_seconds_total"

// cpuTimes are the containers' CPU times in nanoseconds, by the containers' IDs.
func (p *Provider) cpuTimes(ctx context.Context) map[string]*statsapi.CPUStats {
	out := map[string]*statsapi.CPUStats{}
	s, err := p.snapshot(ctx, true)
	if err != nil {
		return out
	}
	for i := range s.Pods {
		for j := range s.Pods[i].Containers {
			if cpu := s.Pods[i].Containers[j].CPU; cpu != nil {
				out[s.pods[i].containers[j].Id] = cpu
			}
		}
	}
	return out
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

// kernelMetrics shows of every container that runs what is not shown yet; with all, also what the statistics have of the
// node, as the cgroup "/", of pods, with an empty container label, and of containers.
func (p *Provider) kernelMetrics(ctx context.Context, out chan<- prometheus.Metric, shown map[string]bool, all bool) {
	s, err := p.snapshot(ctx, !all)
	if err != nil {
		return
	}
	show := func(labels []string, list samples) {
		for _, v := range list {
			desc := cadvisorDescs[v.family]
			if desc == nil || shown["container_"+v.family] {
				continue
			}
			kind := prometheus.GaugeValue
			if strings.HasSuffix(v.family, "_total") || v.family == "memory_failcnt" {
				kind = prometheus.CounterValue
			}
			sink(out).value(desc, kind, v.at, v.value, slices.Concat(labels, v.labels))
		}
	}
	if all {
		node := &s.Node
		show([]string{"/", "", "", "", "", ""}, slices.Concat(usage(node.CPU, node.Memory, node.Swap, node.IO), traffic(node.Network)))
	}
	specs := p.specs()
	for i := range s.Pods {
		pod := &s.Pods[i]
		cgroup := ""
		if spec := specs[pod.PodRef.UID]; spec != nil {
			cgroup = p.podCgroup(spec)
		}
		if all {
			show([]string{cgroup, "", "", "", pod.PodRef.Name, pod.PodRef.Namespace}, slices.Concat(usage(pod.CPU, pod.Memory, pod.Swap, pod.IO), traffic(pod.Network)))
		}
		for j := range pod.Containers {
			c, known := &pod.Containers[j], s.pods[i].containers[j]
			image := cmp.Or(known.GetImage().GetUserSpecifiedImage(), known.GetImage().GetImage())
			labels := []string{filepath.Join(cgroup, known.Id), known.Id, image, c.Name, pod.PodRef.Name, pod.PodRef.Namespace}
			if all {
				show(labels, containerUsage(c))
			}
			if cgroup, ok := p.machine.Child(cgroup, known.Id); ok {
				labels[0] = cgroup
				show(labels, details(p.machine, cgroup))
			}
		}
	}
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
		out.add("fs_usage_bytes", c.Rootfs.Time, c.Rootfs.UsedBytes, 1)
		out.add("fs_inodes_used", c.Rootfs.Time, c.Rootfs.InodesUsed, 1)
	}
	return out
}

func usage(cpu *statsapi.CPUStats, memory *statsapi.MemoryStats, swap *statsapi.SwapStats, io *statsapi.IOStats) (out samples) {
	if cpu != nil {
		out.add("cpu_usage_seconds_total", cpu.Time, cpu.UsageCoreNanoSeconds, 1e9, "total")
		out.pressure("cpu", cpu.Time, cpu.PSI)
	}
	if memory != nil {
		out.add("memory_usage_bytes", memory.Time, memory.UsageBytes, 1)
		out.add("memory_working_set_bytes", memory.Time, memory.WorkingSetBytes, 1)
		out.add("memory_rss", memory.Time, memory.RSSBytes, 1)
		out.add("memory_failures_total", memory.Time, memory.PageFaults, 1, "pgfault", "hierarchy")
		out.add("memory_failures_total", memory.Time, memory.MajorPageFaults, 1, "pgmajfault", "hierarchy")
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

func traffic(n *statsapi.NetworkStats) (out samples) {
	if n == nil {
		return nil
	}
	for _, i := range n.Interfaces {
		out.add("network_receive_bytes_total", n.Time, i.RxBytes, 1, i.Name)
		out.add("network_receive_errors_total", n.Time, i.RxErrors, 1, i.Name)
		out.add("network_transmit_bytes_total", n.Time, i.TxBytes, 1, i.Name)
		out.add("network_transmit_errors_total", n.Time, i.TxErrors, 1, i.Name)
	}
	return out
}
