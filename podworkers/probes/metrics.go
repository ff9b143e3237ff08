package probes

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics count probes, under upstream's names. They stand on /metrics/probes, apart
// from the others: there are as many of them as there are probes.
type metrics struct {
	results  *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	f := promauto.With(registerer)
	return &metrics{
		results: f.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_total", Help: "Probes of a container, by result.",
		}, []string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "prober_probe_duration_seconds", Help: "Seconds that a probe of a container took.", Buckets: prometheus.DefBuckets,
		}, []string{"probe_type", "container", "pod", "namespace"}),
	}
}

// probed counts one probe. The duration of a failed probe is not counted, since it is most often the timeout.
func (m *metrics) probed(w *worker, o outcome, start time.Time) {
	result := "successful"
	switch {
	case o.err != nil:
		result = "unknown"
	case o.result == failure:
		result = "failed"
	}
	m.results.WithLabelValues(string(w.kind), result, w.container.Name, w.pod.Name, w.pod.Namespace, string(w.pod.UID)).Inc()
	if result != "failed" {
		m.duration.WithLabelValues(string(w.kind), w.container.Name, w.pod.Name, w.pod.Namespace).Observe(time.Since(start).Seconds())
	}
}

// forget drops what was counted for a probe that is over.
func (m *metrics) forget(w *worker) {
	for _, result := range []string{"successful", "failed", "unknown"} {
		m.results.DeleteLabelValues(string(w.kind), result, w.container.Name, w.pod.Name, w.pod.Namespace, string(w.pod.UID))
	}
	m.duration.DeleteLabelValues(string(w.kind), w.container.Name, w.pod.Name, w.pod.Namespace)
}
