package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// SLIs are how health checks did, which /metrics/slis shows.
//
// Upstream: component-base/metrics/prometheus/slis/metrics.go
type SLIs struct {
	status *prometheus.GaugeVec
	total  *prometheus.CounterVec
}

// NewSLIs makes metrics without any check.
func NewSLIs(registerer prometheus.Registerer) *SLIs {
	f := promauto.With(registerer)
	return &SLIs{
		status: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kubernetes_healthcheck", Help: "1 if the last check of its name found everything well, else 0.",
		}, []string{"name", "type"}),
		total: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kubernetes_healthchecks_total", Help: "Checks by result.",
		}, []string{"name", "type", "status"}),
	}
}

// Observe notes the result of a check of /healthz.
func (s *SLIs) Observe(name string, err error) {
	status, well := "success", 1.0
	if err != nil {
		status, well = "error", 0
	}
	s.status.WithLabelValues(name, "healthz").Set(well)
	s.total.WithLabelValues(name, "healthz", status).Inc()
}
