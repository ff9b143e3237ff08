package podworkers

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
)

// metrics tell how workers do, under upstream's names.
//
// Upstream: pkg/kubelet/metrics/metrics.go PodWorkerDuration, PodStartDuration and those near them.
type metrics struct {
	step         *prometheus.HistogramVec
	workerStart  prometheus.Histogram
	podStart     prometheus.Histogram
	containers   prometheus.Histogram
	runtimeOnly  prometheus.Counter
	restarted    *prometheus.CounterVec
	rejections   *prometheus.CounterVec
	describeWork *prometheus.Desc
}

// startBuckets reach from half a second to an hour.
var startBuckets = []float64{0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}

func newMetrics(registerer prometheus.Registerer, ws *Workers) *metrics {
	f := promauto.With(registerer)
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return f.NewHistogram(prometheus.HistogramOpts{Name: "kubelet_" + name, Help: help, Buckets: buckets})
	}
	m := &metrics{
		step: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_pod_worker_duration_seconds", Help: "Seconds that one step of a pod's worker took.", Buckets: prometheus.DefBuckets,
		}, []string{"operation_type"}),
		workerStart: histogram("pod_worker_start_duration_seconds", "Seconds from seeing a pod to its getting a worker.", prometheus.DefBuckets),
		podStart:    histogram("pod_start_duration_seconds", "Seconds from seeing a pod to the pod running.", startBuckets),
		containers:  histogram("containers_per_pod_count", "Containers per pod.", prometheus.ExponentialBuckets(1, 2, 5)),
		runtimeOnly: f.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_orphaned_runtime_pods_total", Help: "Pods that only the container runtime knew of.",
		}),
		restarted: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_restarted_pods_total", Help: "Pods that were removed and came back with their UID while they ended.",
		}, []string{"static"}),
		rejections: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_admission_rejections_total", Help: "Pods that the kubelet did not admit, by reason.",
		}, []string{"reason"}),
		describeWork: prometheus.NewDesc("kubelet_working_pods", "Pods that have a worker.", []string{"lifecycle", "config", "static"}, nil),
	}
	for _, static := range []string{"", "true"} {
		m.restarted.WithLabelValues(static)
	}
	if registerer != nil {
		registerer.MustRegister(workingPods{m, ws})
	}
	return m
}

// restart notes that a pod came back.
func (m *metrics) restart(pod *corev1.Pod) {
	static := ""
	if podinfo.IsStatic(pod) {
		static = "true"
	}
	m.restarted.WithLabelValues(static).Inc()
}

// CountRejection counts a pod that is not admitted, by the loop or by its worker.
func (ws *Workers) CountRejection(reason string) { ws.metrics.rejections.WithLabelValues(reason).Inc() }

// began notes that a pod gets a worker.
func (m *metrics) began(pod *corev1.Pod, seen time.Time) {
	m.workerStart.Observe(time.Since(seen).Seconds())
	m.containers.Observe(float64(len(pod.Spec.Containers)))
}

// stepKind names the step that is about to be made.
func (w *worker) stepKind(m mail) string {
	first := w.reported == "" // no step has made a status yet
	switch {
	case w.phase > Terminating:
		return "terminated"
	case m.ending:
		return "kill"
	case first:
		return "create"
	case m.updated:
		return "update"
	}
	return "sync"
}

// running notes that a pod that was pending runs.
func (m *metrics) running(before, now corev1.PodPhase, seen time.Time) {
	if before == corev1.PodPending && now == corev1.PodRunning {
		m.podStart.Observe(time.Since(seen).Seconds())
	}
}

// seen is when the kubelet first saw the pod, as its source noted; now, if that cannot be true.
func seen(pod *corev1.Pod) time.Time {
	now := time.Now()
	at, known := podinfo.FirstSeen(pod.Annotations)
	if !known || at.After(now) {
		return now
	}
	return at
}

// workingPods counts workers when it is asked to.
type workingPods struct {
	*metrics
	workers *Workers
}

// Describe implements prometheus.Collector.
func (c workingPods) Describe(out chan<- *prometheus.Desc) { out <- c.describeWork }

// Collect implements prometheus.Collector.
func (c workingPods) Collect(out chan<- prometheus.Metric) {
	type group struct{ lifecycle, config, static string }
	counts := map[group]int{}
	lifecycles := map[Phase]string{Syncing: "sync", Terminating: "terminating", Terminated: "terminated", Finished: "terminated"}
	for _, lifecycle := range lifecycles {
		for _, config := range []string{"desired", "orphan"} {
			counts[group{lifecycle, config, ""}], counts[group{lifecycle, config, "true"}] = 0, 0
		}
		counts[group{lifecycle, "runtime_only", "unknown"}] = 0
	}
	c.workers.mu.Lock()
	for _, w := range c.workers.byUID {
		w.mu.Lock()
		g := group{lifecycle: lifecycles[w.phase], config: "desired"}
		if podinfo.IsStatic(w.pod) {
			g.static = "true"
		}
		if w.runtimeOnly {
			g.config, g.static = "runtime_only", "unknown"
		} else if w.removed {
			g.config = "orphan"
		}
		w.mu.Unlock()
		counts[g]++
	}
	c.workers.mu.Unlock()
	for g, n := range counts {
		out <- prometheus.MustNewConstMetric(c.describeWork, prometheus.GaugeValue, float64(n), g.lifecycle, g.config, g.static)
	}
}
