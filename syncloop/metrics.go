package syncloop

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
)

// metrics count the pods that should run, under upstream's names.
//
// Upstream: pkg/kubelet/metrics/metrics.go DesiredPodCount and those after it.
type metrics struct {
	desired, active   *prometheus.GaugeVec
	mirrors, ephemera prometheus.Gauge
	preemptions       *prometheus.CounterVec
	infeasible        *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	f := promauto.With(registerer)
	m := &metrics{
		desired: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kubelet_desired_pods", Help: "Pods that the node's sources want to run; static ones do not come from the apiserver.",
		}, []string{"static"}),
		active: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kubelet_active_pods", Help: "Pods that count in the admission of new ones; static ones do not come from the apiserver.",
		}, []string{"static"}),
		mirrors: f.NewGauge(prometheus.GaugeOpts{Name: "kubelet_mirror_pods", Help: "Mirror pods of this node's static pods."}),
		ephemera: f.NewGauge(prometheus.GaugeOpts{
			Name: "kubelet_managed_ephemeral_containers", Help: "Ephemeral containers in the pods of this node.",
		}),
		preemptions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_preemptions", Help: "Pods that were ended for critical ones, by the resource that those lacked.",
		}, []string{"preemption_signal"}),
		infeasible: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_pod_infeasible_resizes_total", Help: "Resizes of pods that the node never does.",
		}, []string{"reason_detail"}),
	}
	m.count(nil, nil, 0) // shown before the first housekeeping, too
	return m
}

// count is called by every housekeeping.
func (m *metrics) count(desired, active []*corev1.Pod, mirrors int) {
	for gauge, pods := range map[*prometheus.GaugeVec][]*corev1.Pod{m.desired: desired, m.active: active} {
		static := 0
		for _, pod := range pods {
			if podinfo.IsStatic(pod) {
				static++
			}
		}
		gauge.WithLabelValues("true").Set(float64(static))
		gauge.WithLabelValues("").Set(float64(len(pods) - static))
	}
	ephemeral := 0
	for _, pod := range desired {
		ephemeral += len(pod.Spec.EphemeralContainers)
	}
	m.ephemera.Set(float64(ephemeral))
	m.mirrors.Set(float64(mirrors))
}
