package status

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/metricstest"
)

func runningPod(created time.Time, volumes ...corev1.Volume) *corev1.Pod {
	at := func(seconds int) metav1.Time {
		return metav1.NewTime(created.Add(time.Duration(seconds) * time.Second))
	}
	pod := apiPod()
	pod.CreationTimestamp = at(0)
	pod.Spec.Volumes = volumes
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: new(at(0)),
		InitContainerStatuses: []corev1.ContainerStatus{{Name: "i", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{StartedAt: at(2), FinishedAt: at(5)}}}},
		ContainerStatuses:     []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(6)}}}},
	}
	return pod
}

// TestStartLatency: of the 20 s since its creation 3 were an init container's and 10 those of two pulls that overlap.
func TestStartLatency(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := New(Options{Registerer: registry})
	created := time.Now().Add(-20 * time.Second)
	fresh := apiPod()
	m.Set(fresh, corev1.PodStatus{Phase: corev1.PodPending})
	m.Reconcile(fresh)
	m.Pulled("u", created, created.Add(8*time.Second))
	m.Pulled("u", created.Add(time.Second), created.Add(10*time.Second))
	m.Pulled("u", created.Add(2*time.Second), created.Add(4*time.Second))
	m.Pulled("unknown", created, created.Add(time.Hour))
	metricstest.Want(t, registry, "kubelet_pod_start_total_duration_seconds_count 0")
	m.Reconcile(runningPod(created))
	m.Reconcile(runningPod(created)) // once is enough
	metricstest.Want(t, registry,
		`kubelet_pod_start_total_duration_seconds_count 1`, `kubelet_pod_start_total_duration_seconds_bucket{le="10"} 0`,
		`kubelet_pod_start_total_duration_seconds_bucket{le="30"} 1`,
		`kubelet_pod_start_sli_duration_seconds_bucket{le="6"} 0`, `kubelet_pod_start_sli_duration_seconds_bucket{le="8"} 1`,
	)
}

func TestStartLatencyNotCounted(t *testing.T) {
	for name, test := range map[string]struct {
		first, then *corev1.Pod
		total       string
	}{
		"started before the kubelet": {runningPod(time.Now()), runningPod(time.Now()), "0"},
		"with a persistent volume":   {apiPod(), runningPod(time.Now(), corev1.Volume{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}}), "1"},
	} {
		registry := prometheus.NewRegistry()
		m := New(Options{Registerer: registry})
		m.Set(test.first, corev1.PodStatus{Phase: corev1.PodPending})
		m.Reconcile(test.then)
		t.Log(name)
		metricstest.Want(t, registry, "kubelet_pod_start_total_duration_seconds_count "+test.total, "kubelet_pod_start_sli_duration_seconds_count 0")
	}
}

func TestTerminatedOnce(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := New(Options{Registerer: registry})
	ended := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
		{Name: "a", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error"}}}, {Name: "b"},
	}}
	m.Set(apiPod(), ended)
	ended.Message = "again"
	m.Set(apiPod(), ended)
	metricstest.Want(t, registry, `kubelet_terminated_containers_total{container_type="container",exit_code="3",reason="Error"} 1`)
}

func TestSyncDuration(t *testing.T) {
	registry := prometheus.NewRegistry()
	s := newServer(t, apiPod())
	m := start(t, s)
	m.metrics = newMetrics(registry)
	m.Set(apiPod(), corev1.PodStatus{Phase: corev1.PodRunning})
	s.wait(t)
	s.quiet(t)
	metricstest.Want(t, registry, "kubelet_pod_status_sync_duration_seconds_count 1")
}
