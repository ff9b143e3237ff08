package metrics

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func scrape(t *testing.T, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestRegister(t *testing.T) {
	registry := prometheus.NewRegistry()
	Register(registry, Options{NodeName: "n1", Version: "v1.2.3"})
	text := scrape(t, Handler(registry))
	for _, want := range []string{
		`kubelet_node_name{node="n1"} 1`, "\nkubelet_cgroup_version ", `git_version="v1.2.3"`, `major="1",minor="2"`,
		"\nprocess_cpu_seconds_total ", "\nprocess_start_time_seconds ", "\ngo_goroutines ",
	} {
		if !strings.Contains("\n"+text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	StartTime(registry)
	if text := scrape(t, Plain(registry)); !strings.Contains(text, "\nprocess_start_time_seconds ") {
		t.Errorf("no start time in\n%s", text)
	}
	if text := scrape(t, Plain(prometheus.NewRegistry())); strings.Contains(text, "process_") {
		t.Error("the handler of one registry shows another")
	}
}

func TestHTTP(t *testing.T) {
	registry := prometheus.NewRegistry()
	during := ""
	h := NewHTTP(registry).Wrap(ReadWrite, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		during = scrape(t, Plain(registry))
		if r.URL.Path == "/exec/a" {
			panic(http.ErrAbortHandler)
		}
	}))
	for _, r := range []struct{ method, path string }{{"GET", "/pods"}, {"BREW", "/made/up"}, {"GET", "/metrics/cadvisor"}, {"POST", "/exec/a"}, {"GET", "/metrics/x"}} {
		func() {
			defer func() { _ = recover() }()
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(r.method, r.path, nil))
		}()
	}
	if want := `kubelet_http_inflight_requests{long_running="false",method="GET",path="other",server_type="readwrite"} 1`; !strings.Contains(during, want) {
		t.Errorf("while it is answered, %s is missing in\n%s", want, during)
	}
	text := scrape(t, Plain(registry))
	for _, want := range []string{
		`kubelet_http_requests_total{long_running="false",method="GET",path="pods",server_type="readwrite"} 1`,
		`kubelet_http_requests_total{long_running="false",method="other",path="other",server_type="readwrite"} 1`,
		`kubelet_http_requests_total{long_running="false",method="GET",path="metrics/cadvisor",server_type="readwrite"} 1`,
		`kubelet_http_requests_total{long_running="true",method="POST",path="exec",server_type="readwrite"} 1`,
		`kubelet_http_inflight_requests{long_running="true",method="POST",path="exec",server_type="readwrite"} 0`,
		`kubelet_http_requests_duration_seconds_count{long_running="true",method="POST",path="exec",server_type="readwrite"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
}

func TestMajorMinor(t *testing.T) {
	for version, want := range map[string][2]string{"v1.2.3": {"1", "2"}, "v1": {"1", ""}, "": {"", ""}, "v1.37.0-dev+x": {"1", "37"}} {
		if major, minor := majorMinor(version); major != want[0] || minor != want[1] {
			t.Errorf("majorMinor(%q) = %q, %q", version, major, minor)
		}
	}
}

func TestSLIs(t *testing.T) {
	registry := prometheus.NewRegistry()
	slis := NewSLIs(registry)
	slis.Observe("a", nil)
	slis.Observe("b", nil)
	slis.Observe("b", errors.New("ill"))
	text := scrape(t, Plain(registry))
	for _, want := range []string{
		`kubernetes_healthcheck{name="a",type="healthz"} 1`, `kubernetes_healthcheck{name="b",type="healthz"} 0`,
		`kubernetes_healthchecks_total{name="b",status="error",type="healthz"} 1`, `kubernetes_healthchecks_total{name="b",status="success",type="healthz"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}
