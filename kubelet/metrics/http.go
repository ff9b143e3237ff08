package metrics

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"k8s.io/apimachinery/pkg/util/sets"
)

// The values of the label server_type.
const (
	ReadWrite = "readwrite" // the authenticated port
	ReadOnly  = "readonly"  // readOnlyPort
)

// HTTP counts requests to the kubelet's servers.
//
// Upstream: pkg/kubelet/server/metrics/metrics.go
type HTTP struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
}

// NewHTTP registers kubelet_http_*; registerer may be nil.
func NewHTTP(registerer prometheus.Registerer) *HTTP {
	f, labels := promauto.With(registerer), []string{"method", "path", "server_type", "long_running"}
	return &HTTP{
		requests: f.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_http_requests_total", Help: "HTTP requests since the kubelet started."}, labels),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_http_requests_duration_seconds", Help: "Seconds that HTTP requests took.", Buckets: prometheus.DefBuckets,
		}, labels),
		inFlight: f.NewGaugeVec(prometheus.GaugeOpts{Name: "kubelet_http_inflight_requests", Help: "HTTP requests that are being answered."}, labels),
	}
}

// Wrap counts the requests to a handler. The writer is passed on as it is, so that streams can take the connection over.
func (h *HTTP) Wrap(serverType string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := bucket(r.URL.Path)
		labels := []string{method(r.Method), path, serverType, strconv.FormatBool(longRunning.Has(path))}
		h.requests.WithLabelValues(labels...).Inc()
		inFlight, start := h.inFlight.WithLabelValues(labels...), time.Now()
		inFlight.Inc()
		defer func() {
			inFlight.Dec()
			h.duration.WithLabelValues(labels...).Observe(time.Since(start).Seconds())
		}()
		next.ServeHTTP(w, r)
	})
}

// Labels come from these lists, so that no client can make up new ones.
var (
	paths       = sets.New("healthz", "pods", "stats", "metrics", "metrics/cadvisor", "metrics/probes", "metrics/resource", "metrics/slis", "run", "exec", "attach", "portForward", "containerLogs", "configz", "runningpods", "logs", "checkpoint", "debug", "statusz", "flagz")
	methods     = sets.New("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE")
	longRunning = sets.New("exec", "attach", "portForward", "debug")
)

// bucket is the first part of a path, two for those below /metrics.
func bucket(path string) string {
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 3)
	root := parts[0]
	if root == "metrics" && len(parts) > 1 {
		root += "/" + parts[1]
	}
	if !paths.Has(root) {
		return "other"
	}
	return root
}

func method(name string) string {
	if !methods.Has(name) {
		return "other"
	}
	return name
}
