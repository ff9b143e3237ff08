package volumes

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	corev1 "k8s.io/api/core/v1"
)

// metrics time mounts, under upstream's name.
//
// Upstream: pkg/volume/util/metrics.go StorageOperationMetric
type metrics struct{ operations *prometheus.HistogramVec }

func newMetrics(registerer prometheus.Registerer) *metrics {
	return &metrics{promauto.With(registerer).NewHistogramVec(prometheus.HistogramOpts{
		Name: "storage_operation_duration_seconds", Help: "Seconds that an operation on a volume took.",
		Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600},
	}, []string{"volume_plugin", "operation_name", "status", "migrated"})}
}

// mounted counts one mount of one volume.
func (m *metrics) mounted(v *corev1.Volume, start time.Time, err error) {
	plugin, ok := plugins[kindOf(v)]
	if v.HostPath != nil {
		plugin, ok = "host-path", true
	}
	if !ok {
		return // the runtime's matter, or refused
	}
	status := "success"
	if err != nil {
		status = "fail-unknown"
	}
	m.operations.WithLabelValues("kubernetes.io/"+plugin, "volume_mount", status, "false").Observe(time.Since(start).Seconds())
}
