package pleg

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"minikubelet/e2e/metricstest"
)

func TestCensus(t *testing.T) {
	registry, cache := prometheus.NewRegistry(), NewCache(nil)
	newMetrics(registry, cache)
	cache.Put(pod("s", isReady, "old", isNotReady, "a", runs, "b", dead))
	ended := pod("s2", isNotReady, "c", dead)
	ended.UID = "ended"
	cache.Put(ended)
	metricstest.Want(t, registry, "kubelet_running_pods 1",
		`kubelet_running_containers{container_state="running"} 1`, `kubelet_running_containers{container_state="exited"} 2`,
		`kubelet_running_containers{container_state="created"} 0`, `kubelet_running_containers{container_state="unknown"} 0`)
}
