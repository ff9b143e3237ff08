package images

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/e2e/metricstest"
)

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		var pulled []types.UID
		m, _, _ := newManager(Options{Registerer: registry, Pulled: func(pod types.UID, _, _ time.Time) { pulled = append(pulled, pod) }})
		for _, policy := range []corev1.PullPolicy{corev1.PullIfNotPresent, corev1.PullIfNotPresent, corev1.PullAlways} {
			if _, err := m.EnsureImageExists(t.Context(), request("reg/app:1", policy)); err != nil {
				t.Fatal(err)
			}
		}
		metricstest.Want(t, registry,
			`kubelet_image_pull_duration_seconds_count{image_size_in_bytes="0-10MB"} 2`,
		)
		if len(pulled) != 2 || pulled[0] != "uid" {
			t.Errorf("told of pulls for %v", pulled)
		}
	})
}

func TestSizeLabel(t *testing.T) {
	for size, want := range map[uint64]string{0: "0-10MB", 10<<20 - 1: "0-10MB", 10 << 20: "10MB-100MB", 1 << 30: "1GB-5GB", 100 << 30: "GT100GB", 1<<64 - 1: "GT100GB"} {
		if got := sizeLabel(size); got != want {
			t.Errorf("sizeLabel(%d) = %s, want %s", size, got, want)
		}
	}
}
