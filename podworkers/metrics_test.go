package podworkers

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/e2e/metricstest"
)

func TestMetricsOfOnePod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		pod := testPod("u", func(p *corev1.Pod) {
			p.Annotations = map[string]string{"kubernetes.io/config.seen": time.Now().Add(-2 * time.Second).Format(time.RFC3339Nano)}
		})
		b.update(Update{Pod: pod})
		b.update(Update{Pod: pod})
		metricstest.Want(t, b.registry,
			`kubelet_working_pods{config="desired",lifecycle="sync",static=""} 1`,
			`kubelet_working_pods{config="runtime_only",lifecycle="sync",static="unknown"} 0`,
			`kubelet_pod_worker_start_duration_seconds_count 1`,
			`kubelet_pod_start_duration_seconds_bucket{le="1"} 0`,
			`kubelet_pod_start_duration_seconds_count 1`,
			`kubelet_containers_per_pod_count_count 1`,
			`kubelet_pod_worker_duration_seconds_count{operation_type="create"} 1`,
			`kubelet_pod_worker_duration_seconds_count{operation_type="update"} 1`,
		)
		b.UpdatePod(b.ctx, Update{Pod: pod, Kill: &Kill{}})
		b.settle()
		metricstest.Want(t, b.registry,
			`kubelet_working_pods{config="desired",lifecycle="terminated",static=""} 1`,
			`kubelet_pod_worker_duration_seconds_count{operation_type="kill"} 1`,
		)
		b.Removed("u")
		b.settle()
		metricstest.Want(t, b.registry, `kubelet_working_pods{config="desired",lifecycle="terminated",static=""} 0`)
	})
}

// TestMetricsAfterRestart: a pod that ran before the kubelet did not start now, and one without a source is counted.
func TestMetricsAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newBench(t)
		first.update(Update{Pod: testPod("u", nil)})
		first.stop()
		b := newBenchOver(t, first.fake, first.dir)
		b.update(Update{Pod: testPod("u", nil)})
		metricstest.Want(t, b.registry, `kubelet_pod_start_duration_seconds_count 0`, `kubelet_orphaned_runtime_pods_total 0`)
		b.stop()
		b = newBenchOver(t, first.fake, first.dir)
		b.EndOrphan(b.ctx, "u")
		metricstest.Want(t, b.registry, `kubelet_orphaned_runtime_pods_total 1`)
		b.settle()
	})
}
