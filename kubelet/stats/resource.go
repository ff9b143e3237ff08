package stats

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

var (
	ofContainer = []string{"container", "pod", "namespace"}
	ofPod       = []string{"pod", "namespace"}

	nodeCPU            = prometheus.NewDesc("node_cpu_usage_seconds_total", "CPU time of the node in core-seconds.", nil, nil)
	nodeMemory         = prometheus.NewDesc("node_memory_working_set_bytes", "Working set of the node.", nil, nil)
	nodeSwap           = prometheus.NewDesc("node_swap_usage_bytes", "Swap that the node uses.", nil, nil)
	containerStart     = prometheus.NewDesc("container_start_time_seconds", "Unix time at which the container was made.", ofContainer, nil)
	containerCPU       = prometheus.NewDesc("container_cpu_usage_seconds_total", "CPU time of the container in core-seconds.", ofContainer, nil)
	containerMemory    = prometheus.NewDesc("container_memory_working_set_bytes", "Working set of the container.", ofContainer, nil)
	containerSwap      = prometheus.NewDesc("container_swap_usage_bytes", "Swap that the container uses.", ofContainer, nil)
	containerSwapLimit = prometheus.NewDesc("container_swap_limit_bytes", "Swap that the container may use.", ofContainer, nil)
	podCPU             = prometheus.NewDesc("pod_cpu_usage_seconds_total", "CPU time of the pod in core-seconds.", ofPod, nil)
	podMemory          = prometheus.NewDesc("pod_memory_working_set_bytes", "Working set of the pod.", ofPod, nil)
	podSwap            = prometheus.NewDesc("pod_swap_usage_bytes", "Swap that the pod uses.", ofPod, nil)
	resourceError      = prometheus.NewDesc("resource_scrape_error", "1 if the statistics could not be had, 0 otherwise.", nil, nil)
)

// Resource answers /metrics/resource, which metrics-server reads.
//
// Upstream: pkg/kubelet/metrics/collectors/resource_metrics.go
func (p *Provider) Resource() http.Handler {
	return scrape(func(ctx context.Context, out chan<- prometheus.Metric) { p.resource(ctx, sink(out)) })
}

// scrape makes a handler of what is collected for one request; nothing of it stays.
func scrape(collect func(context.Context, chan<- prometheus.Metric)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		registry := prometheus.NewRegistry()
		registry.MustRegister(oneScrape(func(out chan<- prometheus.Metric) { collect(r.Context(), out) }))
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
	})
}

// oneScrape is a collector that does not say beforehand what it will collect.
type oneScrape func(chan<- prometheus.Metric)

// Describe implements prometheus.Collector.
func (oneScrape) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c oneScrape) Collect(out chan<- prometheus.Metric) { c(out) }

// sink takes metrics; those without a value are left out.
type sink chan<- prometheus.Metric

func (s sink) gauge(desc *prometheus.Desc, at time.Time, n *uint64, labels ...string) {
	if n != nil {
		s.value(desc, prometheus.GaugeValue, at, float64(*n), labels)
	}
}

// seconds is a counter of nanoseconds, shown in seconds.
func (s sink) seconds(desc *prometheus.Desc, at time.Time, n *uint64, labels ...string) {
	if n != nil {
		s.value(desc, prometheus.CounterValue, at, float64(*n)/float64(time.Second), labels)
	}
}

// value sends one metric, with a time unless that is zero. Names come from the runtime: one that is no UTF-8 is an error
// for prometheus and is left out.
func (s sink) value(desc *prometheus.Desc, kind prometheus.ValueType, at time.Time, value float64, labels []string) {
	m, err := prometheus.NewConstMetric(desc, kind, value, labels...)
	if err != nil {
		return
	}
	if !at.IsZero() {
		m = prometheus.NewMetricWithTimestamp(at, m)
	}
	s <- m
}

func (p *Provider) resource(ctx context.Context, out sink) {
	summary, err := p.GetCPUAndMemory(ctx)
	failed := uint64(0)
	if err != nil {
		failed = 1
	}
	out.gauge(resourceError, time.Time{}, &failed)
	if err != nil {
		return
	}
	node := &summary.Node
	out.seconds(nodeCPU, node.CPU.Time.Time, node.CPU.UsageCoreNanoSeconds)
	out.gauge(nodeMemory, node.Memory.Time.Time, node.Memory.WorkingSetBytes)
	if node.Swap != nil { // a node that is a container, on cgroup v1 whose kernel does not count swap
		out.gauge(nodeSwap, node.Swap.Time.Time, node.Swap.SwapUsageBytes)
	}
	for i := range summary.Pods {
		out.pod(&summary.Pods[i])
	}
}

func (s sink) pod(pod *statsapi.PodStats) {
	name, namespace := pod.PodRef.Name, pod.PodRef.Namespace
	for i := range pod.Containers {
		s.container(&pod.Containers[i], pod.Containers[i].Name, name, namespace)
	}
	if pod.CPU != nil {
		s.seconds(podCPU, pod.CPU.Time.Time, pod.CPU.UsageCoreNanoSeconds, name, namespace)
	}
	if pod.Memory != nil {
		s.gauge(podMemory, pod.Memory.Time.Time, pod.Memory.WorkingSetBytes, name, namespace)
	}
	if pod.Swap != nil {
		s.gauge(podSwap, pod.Swap.Time.Time, pod.Swap.SwapUsageBytes, name, namespace)
	}
}

func (s sink) container(c *statsapi.ContainerStats, labels ...string) {
	if c.StartTime.Unix() > 0 {
		s.value(containerStart, prometheus.GaugeValue, time.Time{}, float64(c.StartTime.UnixNano())/1e9, labels)
	}
	if c.CPU != nil {
		s.seconds(containerCPU, c.CPU.Time.Time, c.CPU.UsageCoreNanoSeconds, labels...)
	}
	if c.Memory != nil {
		s.gauge(containerMemory, c.Memory.Time.Time, c.Memory.WorkingSetBytes, labels...)
	}
	if c.Swap == nil {
		return
	}
	s.gauge(containerSwap, c.Swap.Time.Time, c.Swap.SwapUsageBytes, labels...)
	if c.Swap.SwapAvailableBytes != nil && c.Swap.SwapUsageBytes != nil {
		s.gauge(containerSwapLimit, c.Swap.Time.Time, new(*c.Swap.SwapAvailableBytes+*c.Swap.SwapUsageBytes), labels...)
	}
}
