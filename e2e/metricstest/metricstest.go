// Package metricstest reads what a registry shows, for tests of metrics.
package metricstest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Scrape returns what a registry shows, as text.
func Scrape(g prometheus.Gatherer) string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	return w.Body.String()
}

// Want fails the test for each line that the registry does not show.
func Want(t testing.TB, g prometheus.Gatherer, lines ...string) {
	t.Helper()
	text := Scrape(g)
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("no %s in\n%s", line, text)
		}
	}
}
