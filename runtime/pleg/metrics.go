package pleg

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// metrics have upstream's names.
//
// Upstream: pkg/kubelet/metrics/metrics.go PLEG..., RunningPodCount, RunningContainerCount
type metrics struct {
	duration, interval, podRead, latency prometheus.Histogram
	lastSeen                             prometheus.Gauge
	streams, streamErrors                prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer, cache *Cache) *metrics {
	f := promauto.With(registerer)
	histogram := func(name, help string) prometheus.Histogram {
		return f.NewHistogram(prometheus.HistogramOpts{Name: "kubelet_" + name, Help: help, Buckets: prometheus.DefBuckets})
	}
	m := &metrics{
		duration: histogram("pleg_relist_duration_seconds", "Seconds that listing all pods took."),
		interval: histogram("pleg_relist_interval_seconds", "Seconds between two lists of all pods."),
		podRead:  histogram("pleg_pod_relist_duration_seconds", "Seconds that reading one pod took."),
		latency:  histogram("evented_pleg_connection_latency_seconds", "Seconds that events of the runtime were under way."),
		lastSeen: f.NewGauge(prometheus.GaugeOpts{
			Name: "kubelet_pleg_last_seen_seconds", Help: "Unix time at which the runtime was last heard from.",
		}),
		streams: f.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_evented_pleg_connection_success_count", Help: "Event streams opened.",
		}),
		streamErrors: f.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_evented_pleg_connection_error_count", Help: "Event streams that failed or broke.",
		}),
	}
	if registerer != nil {
		registerer.MustRegister(census{cache})
	}
	return m
}

var (
	runningPods       = prometheus.NewDesc("kubelet_running_pods", "Pods whose sandbox runs.", nil, nil)
	runningContainers = prometheus.NewDesc("kubelet_running_containers", "Containers that the runtime has, by state.", []string{"container_state"}, nil)
)

// census counts the pods and containers of the cache when it is asked to.
type census struct{ cache *Cache }

// Describe implements prometheus.Collector.
func (census) Describe(out chan<- *prometheus.Desc) {
	out <- runningPods
	out <- runningContainers
}

// Collect implements prometheus.Collector.
func (r census) Collect(out chan<- prometheus.Metric) {
	names := map[runtimeapi.ContainerState]string{
		runtimeapi.ContainerState_CONTAINER_CREATED: "created", runtimeapi.ContainerState_CONTAINER_RUNNING: "running",
		runtimeapi.ContainerState_CONTAINER_EXITED: "exited", runtimeapi.ContainerState_CONTAINER_UNKNOWN: "unknown",
	}
	pods, containers := 0, map[string]int{}
	for _, uid := range r.cache.UIDs() {
		pod, ok := r.cache.Get(uid)
		if !ok {
			continue
		}
		for _, sandbox := range pod.Sandboxes {
			if sandbox.State == runtimeapi.PodSandboxState_SANDBOX_READY {
				pods++
				break
			}
		}
		for _, container := range pod.Containers {
			containers[names[container.State]]++
		}
	}
	out <- prometheus.MustNewConstMetric(runningPods, prometheus.GaugeValue, float64(pods))
	for _, state := range names {
		out <- prometheus.MustNewConstMetric(runningContainers, prometheus.GaugeValue, float64(containers[state]), state)
	}
}
