package pleg

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrape returns what the registry shows.
func scrape(g prometheus.Gatherer) string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	return w.Body.String()
}

func wantMetrics(t *testing.T, g prometheus.Gatherer, lines ...string) {
	t.Helper()
	text := scrape(g)
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("no %s in\n%s", line, text)
		}
	}
}

func TestCensus(t *testing.T) {
	registry, cache := prometheus.NewRegistry(), NewCache(nil)
	newMetrics(registry, cache)
	cache.Put(pod("s", isReady, "old", isNotReady, "a", runs, "b", dead))
	ended := pod("s2", isNotReady, "c", dead)
	ended.UID = "ended"
	cache.Put(ended)
	wantMetrics(t, registry, "kubelet_running_pods 1",
		`kubelet_running_containers{container_state="running"} 1`, `kubelet_running_containers{container_state="exited"} 2`,
		`kubelet_running_containers{container_state="created"} 0`, `kubelet_running_containers{container_state="unknown"} 0`)
}
