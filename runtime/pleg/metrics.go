package pleg

import "github.com/prometheus/client_golang/prometheus"

// metrics have upstream's names.
//
// Upstream: pkg/kubelet/metrics/metrics.go PLEG...
type metrics struct {
	duration, interval    prometheus.Histogram
	discarded             prometheus.Counter
	lastSeen              prometheus.Gauge
	streams, streamErrors prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubelet_pleg_relist_duration_seconds", Help: "Seconds that listing all pods took.", Buckets: prometheus.DefBuckets,
		}),
		interval: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubelet_pleg_relist_interval_seconds", Help: "Seconds between two lists of all pods.", Buckets: prometheus.DefBuckets,
		}),
		discarded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_pleg_discard_events", Help: "Events that found the channel full; their pods are synced later.",
		}),
		lastSeen: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kubelet_pleg_last_seen_seconds", Help: "Unix time at which the runtime was last heard from.",
		}),
		streams: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_evented_pleg_connection_success_count", Help: "Event streams opened.",
		}),
		streamErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_evented_pleg_connection_error_count", Help: "Event streams that failed or broke.",
		}),
	}
	if registerer != nil {
		registerer.MustRegister(m.duration, m.interval, m.discarded, m.lastSeen, m.streams, m.streamErrors)
	}
	return m
}
