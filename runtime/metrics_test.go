package runtime

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/config/pod/podtest"
	"minikubelet/e2e/metricstest"
)

func TestMetrics(t *testing.T) {
	b := newBench(t, nil)
	registry := prometheus.NewRegistry()
	b.metrics = newMetrics(registry)
	b.mustSync(t, podtest.Pod("i:x c:a", corev1.RestartPolicyAlways))
	for call, uid := range map[string]types.UID{"StartContainer": "uid-2", "RunPodSandbox": "uid-3"} {
		pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
		pod.UID = uid
		b.fake.FailNext(call, status.Error(codes.Internal, "no"))
		if _, err := b.sync(t, pod, inputs{}); err == nil {
			t.Fatalf("pod started although %s failed", call)
		}
	}
	metricstest.Want(t, registry, "kubelet_started_pods_total 3", "kubelet_started_pods_errors_total 1",
		`kubelet_started_containers_total{container_type="init_container"} 1`, `kubelet_started_containers_total{container_type="container"} 1`,
		`kubelet_started_containers_errors_total{code="RunContainerError",container_type="container"} 1`)
}
