// Package metrics has what belongs to the kubelet's process rather than to one of its parts: who it is, the handler of
// /metrics and the counts of HTTP requests. Everything else is counted by the package in which it happens.
package metrics

import (
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/restclient" // rest_client_*
	_ "k8s.io/component-base/metrics/prometheus/workqueue"  // workqueue_*
)

// Options say whose metrics these are.
type Options struct {
	NodeName string
	Version  string // of the kubelet: v1.2.3
}

// Register adds what is known from the start: kubelet_node_name, kubernetes_build_info and kubelet_cgroup_version.
//
// Upstream: pkg/kubelet/metrics/metrics.go Register, component-base/metrics/version.go
func Register(registerer prometheus.Registerer, o Options) {
	f := promauto.With(registerer)
	f.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kubelet_node_name", Help: "The node's name; always 1.",
	}, []string{"node"}).WithLabelValues(o.NodeName).Set(1)
	f.NewGauge(prometheus.GaugeOpts{
		Name: "kubelet_cgroup_version", Help: "The version of cgroups on the node.",
	}).Set(float64(cgroupVersion()))
	commit, date, state := build()
	major, minor := majorMinor(o.Version)
	f.NewGauge(prometheus.GaugeOpts{
		Name: "kubernetes_build_info", Help: "What was built, from what and how; always 1.",
		ConstLabels: prometheus.Labels{
			"major": major, "minor": minor, "git_version": o.Version, "git_commit": commit, "git_tree_state": state, "build_date": date,
			"go_version": runtime.Version(), "compiler": runtime.Compiler, "platform": runtime.GOOS + "/" + runtime.GOARCH,
		},
	}).Set(1)
}

// StartTime adds process_start_time_seconds, which /metrics/probes shows beside the probes.
func StartTime(registerer prometheus.Registerer) {
	promauto.With(registerer).NewGauge(prometheus.GaugeOpts{
		Name: "process_start_time_seconds", Help: "Unix time at which the process started.",
	}).Set(float64(started.UnixNano()) / 1e9)
}

// started is when this process did, but for what the Go runtime does before.
var started = time.Now()

func cgroupVersion() int {
	var fs unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return 2
	}
	return 1
}

// build is what the Go tool noted of the source.
func build() (commit, date, state string) {
	state = "clean"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", "", state
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.time":
			date = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			state = "dirty"
		}
	}
	return commit, date, state
}

func majorMinor(version string) (major, minor string) {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ = strings.Cut(rest, ".")
	return major, minor
}

const (
	maxScrapes    = 10 // at once
	scrapeTimeout = 30 * time.Second
)

// Handler answers /metrics: the registry, and what Kubernetes' libraries count in a registry of their own: process_*,
// go_*, rest_client_*, workqueue_*, apiserver_* of authentication and authorization. What cannot be collected does not keep the rest
// from being shown.
func Handler(registry prometheus.Gatherer) http.Handler {
	return Plain(prometheus.Gatherers{registry, legacyregistry.DefaultGatherer})
}

// Plain shows one registry alone, as /metrics/probes does.
func Plain(gatherer prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout,
	})
}
