package volumes

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// metrics time mounts and count volumes, under upstream's names.
//
// Upstream: pkg/volume/util/metrics.go StorageOperationMetric, storageOperationEndToEndLatencyMetric,
// pkg/kubelet/volumemanager/metrics/metrics.go
type metrics struct {
	operations, total *prometheus.HistogramVec

	mu      sync.Mutex
	present map[types.UID]map[string]volumeCount // by plugin
}

// volumeCount is how many volumes a pod wants, and has.
type volumeCount struct{ wanted, mounted int }

func newMetrics(registerer prometheus.Registerer) *metrics {
	f, buckets := promauto.With(registerer), []float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600}
	m := &metrics{
		operations: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "storage_operation_duration_seconds", Help: "Seconds that an operation on a volume took.", Buckets: buckets,
		}, []string{"volume_plugin", "operation_name", "status", "migrated"}),
		total: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "volume_operation_total_seconds", Help: "Seconds that an operation on a volume took from end to end.", Buckets: buckets,
		}, []string{"plugin_name", "operation_name"}),
		present: map[types.UID]map[string]volumeCount{},
	}
	if registerer != nil {
		registerer.MustRegister(m)
	}
	return m
}

// begin counts all volumes of a pod as wanted and none as mounted.
func (m *metrics) begin(pod types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.present[pod] = map[string]volumeCount{}
}

// forget notes that the pod has no volumes any more.
func (m *metrics) forget(pod types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.present, pod)
}

var totalVolumes = prometheus.NewDesc("volume_manager_total_volumes", "Volumes that pods of this node want, and have.", []string{"plugin_name", "state"}, nil)

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) { out <- totalVolumes }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	sum := map[string]volumeCount{}
	m.mu.Lock()
	for _, counts := range m.present {
		for plugin, n := range counts {
			sum[plugin] = volumeCount{sum[plugin].wanted + n.wanted, sum[plugin].mounted + n.mounted}
		}
	}
	m.mu.Unlock()
	for plugin, n := range sum {
		out <- prometheus.MustNewConstMetric(totalVolumes, prometheus.GaugeValue, float64(n.wanted), plugin, "desired_state_of_world")
		out <- prometheus.MustNewConstMetric(totalVolumes, prometheus.GaugeValue, float64(n.mounted), plugin, "actual_state_of_world")
	}
}

// pluginOf is upstream's name of the volume's plugin; "" for one that is the runtime's matter, or refused.
func pluginOf(v *corev1.Volume) string {
	plugin, ok := plugins[kindOf(v)]
	if v.HostPath != nil {
		plugin, ok = "host-path", true
	}
	if !ok {
		return ""
	}
	return "kubernetes.io/" + plugin
}

// mounted counts one mount of one volume, after which it stands or not.
func (m *metrics) mounted(pod types.UID, v *corev1.Volume, start time.Time, err error, stands bool) {
	plugin := pluginOf(v)
	if plugin == "" {
		return
	}
	status := "fail-unknown"
	if err == nil {
		status = "success"
		m.total.WithLabelValues(plugin, "volume_mount").Observe(time.Since(start).Seconds())
	}
	m.operations.WithLabelValues(plugin, "volume_mount", status, "false").Observe(time.Since(start).Seconds())
	m.has(pod, v, stands)
}

// has counts a volume that the pod wants, and whether it stands.
func (m *metrics) has(pod types.UID, v *corev1.Volume, stands bool) {
	plugin := pluginOf(v)
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := m.present[pod]
	if plugin == "" || counts == nil {
		return
	}
	n := counts[plugin]
	n.wanted++
	if stands {
		n.mounted++
	}
	counts[plugin] = n
}
