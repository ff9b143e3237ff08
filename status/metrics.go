package status

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// metrics tell how long pods and their statuses take, under upstream's names.
type metrics struct {
	synced, total, sli prometheus.Histogram
	terminated         *prometheus.CounterVec
}

// startBuckets reach from half a second to an hour.
var startBuckets = []float64{0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}

func newMetrics(registerer prometheus.Registerer) *metrics {
	f := promauto.With(registerer)
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return f.NewHistogram(prometheus.HistogramOpts{Name: "kubelet_" + name, Help: help, Buckets: buckets})
	}
	return &metrics{
		synced: histogram("pod_status_sync_duration_seconds", "Seconds from a change of a pod's status to its being written.",
			[]float64{0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 30, 45, 60}),
		total: histogram("pod_start_total_duration_seconds", "Seconds from a pod's creation to the watch showing all its containers started.", startBuckets),
		sli: histogram("pod_start_sli_duration_seconds",
			"The same without the time for image pulls and init containers, of pods without persistent volumes.", startBuckets),
		terminated: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_terminated_containers_total", Help: "Containers that ended.",
		}, []string{"container_type", "exit_code", "reason"}),
	}
}

// countTerminated counts the containers that ended between two statuses. before may be nil.
func (m *metrics) countTerminated(before, now *corev1.PodStatus) {
	if before == nil {
		before = &corev1.PodStatus{}
	}
	for kind, lists := range map[string][2][]corev1.ContainerStatus{
		"init_container":      {before.InitContainerStatuses, now.InitContainerStatuses},
		"container":           {before.ContainerStatuses, now.ContainerStatuses},
		"ephemeral_container": {before.EphemeralContainerStatuses, now.EphemeralContainerStatuses},
	} {
		ended := map[string]bool{}
		for i := range lists[0] {
			ended[lists[0][i].Name] = lists[0][i].State.Terminated != nil
		}
		for i := range lists[1] {
			if t := lists[1][i].State.Terminated; t != nil && !ended[lists[1][i].Name] {
				m.terminated.WithLabelValues(kind, strconv.Itoa(int(t.ExitCode)), t.Reason).Inc()
			}
		}
	}
}

// startup is what is measured of a pod that has not started yet.
type startup struct {
	pulling time.Duration // spent on pulls, those at the same time counted once
	pulled  time.Time     // the latest end of a pull
}

// Pulled records the time of a pull for the pod, which does not count as the kubelet's own.
func (m *Manager) Pulled(pod types.UID, began, ended time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.pods[pod]
	if e == nil || e.startup == nil || !ended.After(e.startup.pulled) {
		return
	}
	if began.Before(e.startup.pulled) {
		began = e.startup.pulled
	}
	e.startup.pulling += ended.Sub(began)
	e.startup.pulled = ended
}

// started records, once, how long a pod took to start, when the watch shows all its containers running. Callers hold
// the manager's mu.
func (m *metrics) started(e *entry, pod *corev1.Pod, now time.Time) {
	if e.startup == nil || !allRunning(pod.Status.ContainerStatuses) {
		return
	}
	took := now.Sub(pod.CreationTimestamp.Time)
	m.total.Observe(took.Seconds())
	if !isStateful(pod) {
		m.sli.Observe((took - e.startup.pulling - initTime(pod)).Seconds())
	}
	e.startup = nil
}

func allRunning(containers []corev1.ContainerStatus) bool {
	for i := range containers {
		if r := containers[i].State.Running; r == nil || r.StartedAt.IsZero() {
			return false
		}
	}
	return len(containers) > 0
}

// initTime is how long the init containers ran.
func initTime(pod *corev1.Pod) time.Duration {
	var sum time.Duration
	for i := range pod.Status.InitContainerStatuses {
		if t := pod.Status.InitContainerStatuses[i].State.Terminated; t != nil && !t.StartedAt.IsZero() {
			sum += max(0, t.FinishedAt.Sub(t.StartedAt.Time))
		}
	}
	return sum
}

// isStateful tells whether the pod has volumes whose mount may take long, which are measured apart.
func isStateful(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Secret == nil && v.ConfigMap == nil && v.DownwardAPI == nil && v.EmptyDir == nil && v.Projected == nil {
			return true
		}
	}
	return false
}
