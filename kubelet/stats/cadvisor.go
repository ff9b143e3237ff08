package stats

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Cadvisor answers /metrics/cadvisor: what the runtime collects under cadvisor's names, or, with a runtime that
// collects nothing, the commonest of those metrics out of the statistics here.
//
// Upstream: pkg/kubelet/metrics/collectors/cri_metrics.go, pkg/kubelet/server/server.go InstallAuthRequiredHandlers
func (p *Provider) Cadvisor() http.Handler {
	return scrape(func(ctx context.Context, out chan<- prometheus.Metric) {
		p.machineMetrics(sink(out))
		answer, err := p.opts.CRI.Runtime.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
		if err == nil && len(answer.PodMetrics) > 0 {
			p.supplement(ctx, out, p.criMetrics(ctx, answer.PodMetrics, out))
			return
		}
		klog.FromContext(ctx).V(4).Info("The runtime has no metrics of its own", "err", err)
		p.basicMetrics(ctx, sink(out))
		p.supplement(ctx, out, nil)
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
	cadvisorLabels = []string{"id", "name", "image", "container", "pod", "namespace"}

	machineLabels = []string{"machine_id", "system_uuid", "boot_id"}
	machineCores  = prometheus.NewDesc("machine_cpu_cores", "Logical CPU cores.", machineLabels, nil)
	machineMemory = prometheus.NewDesc("machine_memory_bytes", "Memory of the machine.", machineLabels, nil)
	machineSwap   = prometheus.NewDesc("machine_swap_bytes", "Swap of the machine.", machineLabels, nil)

	cadvisorStart    = cadvisorDesc("start_time_seconds", "Unix time at which the container was made.")
	cadvisorCPU      = cadvisorDesc("cpu_usage_seconds_total", "CPU time in seconds.", "cpu")
	cadvisorUsage    = cadvisorDesc("memory_usage_bytes", "Memory in use, caches included.")
	cadvisorWorking  = cadvisorDesc("memory_working_set_bytes", "Working set.")
	cadvisorRSS      = cadvisorDesc("memory_rss", "Anonymous memory.")
	cadvisorSwap     = cadvisorDesc("memory_swap", "Swap in use.")
	cadvisorFaults   = cadvisorDesc("memory_failures_total", "Page faults.", "failure_type", "scope")
	cadvisorFsUsage  = cadvisorDesc("fs_usage_bytes", "Bytes of the writable layer.")
	cadvisorInodes   = cadvisorDesc("fs_inodes_used", "Inodes of the writable layer.")
	cadvisorReceived = cadvisorDesc("network_receive_bytes_total", "Bytes received.", "interface")
	cadvisorRxErrors = cadvisorDesc("network_receive_errors_total", "Errors while receiving.", "interface")
	cadvisorSent     = cadvisorDesc("network_transmit_bytes_total", "Bytes sent.", "interface")
	cadvisorTxErrors = cadvisorDesc("network_transmit_errors_total", "Errors while sending.", "interface")
	cadvisorStalls   = map[string]*prometheus.Desc{
		"cpu":    cadvisorDesc("pressure_cpu_waiting_seconds_total", "Time that some tasks waited for a CPU."),
		"memory": cadvisorDesc("pressure_memory_waiting_seconds_total", "Time that some tasks waited for memory."),
		"io":     cadvisorDesc("pressure_io_waiting_seconds_total", "Time that some tasks waited for input or output."),
	}
	cadvisorFull = map[string]*prometheus.Desc{
		"cpu":    cadvisorDesc("pressure_cpu_stalled_seconds_total", "Time that all tasks waited for a CPU."),
		"memory": cadvisorDesc("pressure_memory_stalled_seconds_total", "Time that all tasks waited for memory."),
		"io":     cadvisorDesc("pressure_io_stalled_seconds_total", "Time that all tasks waited for input or output."),
	}
)

func cadvisorDesc(name, help string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc("container_"+name, help, slices.Concat(cadvisorLabels, more), nil)
}

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

// basicMetrics shows the statistics under cadvisor's names: the node as the cgroup "/", pods with an empty container
// label, and containers.
func (p *Provider) basicMetrics(ctx context.Context, out sink) {
	s, err := p.snapshot(ctx, false)
	if err != nil {
		return
	}
	node := &s.Node
	root := []string{"/", "", "", "", "", ""}
	out.usage(root, node.CPU, node.Memory, node.Swap, node.IO)
	out.network(root, node.Network)
	specs := p.specs()
	for i := range s.Pods {
		pod := &s.Pods[i]
		cgroup := ""
		if spec := specs[pod.PodRef.UID]; spec != nil {
			cgroup = p.podCgroup(spec)
		}
		labels := []string{cgroup, "", "", "", pod.PodRef.Name, pod.PodRef.Namespace}
		out.usage(labels, pod.CPU, pod.Memory, pod.Swap, pod.IO)
		out.network(labels, pod.Network)
		for j := range pod.Containers {
			c, of := &pod.Containers[j], s.pods[i].containers[j]
			labels := []string{filepath.Join(cgroup, of.Id), of.Id, of.GetImage().GetUserSpecifiedImage(), c.Name, pod.PodRef.Name, pod.PodRef.Namespace}
			if labels[2] == "" {
				labels[2] = of.GetImage().GetImage()
			}
			out.gauge(cadvisorStart, time.Time{}, new(uint64(max(0, c.StartTime.Unix()))), labels...)
			out.usage(labels, c.CPU, c.Memory, c.Swap, c.IO)
			if c.Rootfs != nil {
				out.gauge(cadvisorFsUsage, c.Rootfs.Time.Time, c.Rootfs.UsedBytes, labels...)
				out.gauge(cadvisorInodes, c.Rootfs.Time.Time, c.Rootfs.InodesUsed, labels...)
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

func (s sink) usage(labels []string, cpu *statsapi.CPUStats, memory *statsapi.MemoryStats, swap *statsapi.SwapStats, io *statsapi.IOStats) {
	with := func(more ...string) []string { return slices.Concat(labels, more) }
	if cpu != nil {
		s.seconds(cadvisorCPU, cpu.Time.Time, cpu.UsageCoreNanoSeconds, with("total")...)
		s.pressure("cpu", cpu.Time.Time, cpu.PSI, labels)
	}
	if memory != nil {
		at := memory.Time.Time
		s.gauge(cadvisorUsage, at, memory.UsageBytes, labels...)
		s.gauge(cadvisorWorking, at, memory.WorkingSetBytes, labels...)
		s.gauge(cadvisorRSS, at, memory.RSSBytes, labels...)
		s.counter(cadvisorFaults, at, memory.PageFaults, with("pgfault", "hierarchy")...)
		s.counter(cadvisorFaults, at, memory.MajorPageFaults, with("pgmajfault", "hierarchy")...)
		s.pressure("memory", at, memory.PSI, labels)
	}
	if swap != nil {
		s.gauge(cadvisorSwap, swap.Time.Time, swap.SwapUsageBytes, labels...)
	}
	if io != nil {
		s.pressure("io", io.Time.Time, io.PSI, labels)
	}
}

func (s sink) pressure(resource string, at time.Time, psi *statsapi.PSIStats, labels []string) {
	if psi != nil {
		s.seconds(cadvisorStalls[resource], at, &psi.Some.Total, labels...)
		s.seconds(cadvisorFull[resource], at, &psi.Full.Total, labels...)
	}
}

func (s sink) network(labels []string, n *statsapi.NetworkStats) {
	if n == nil {
		return
	}
	for _, i := range n.Interfaces {
		of := append(slices.Clip(labels), i.Name)
		s.counter(cadvisorReceived, n.Time.Time, i.RxBytes, of...)
		s.counter(cadvisorRxErrors, n.Time.Time, i.RxErrors, of...)
		s.counter(cadvisorSent, n.Time.Time, i.TxBytes, of...)
		s.counter(cadvisorTxErrors, n.Time.Time, i.TxErrors, of...)
	}
}
