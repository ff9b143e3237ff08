package node

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sys/unix"
)

// startup times how a new node comes up, under upstream's names.
//
// Upstream: pkg/kubelet/util/node_startup_latency_tracker.go
type startup struct {
	preKubelet, preRegistration, registration, postRegistration, total prometheus.Gauge

	mu                                        sync.Mutex
	booted, begun, attempted, made, readyTime time.Time
}

func newStartup(registerer prometheus.Registerer) *startup {
	f := promauto.With(registerer)
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: "kubelet_node_startup_" + name, Help: "Seconds " + help})
	}
	s := &startup{
		begun:            time.Now(),
		preKubelet:       gauge("pre_kubelet_duration_seconds", "from boot to the kubelet's start."),
		preRegistration:  gauge("pre_registration_duration_seconds", "from the kubelet's start to its registering the node."),
		registration:     gauge("registration_duration_seconds", "that registering the node took."),
		postRegistration: gauge("post_registration_duration_seconds", "from the node's registration to its being ready."),
		total:            gauge("duration_seconds", "from boot to the node's being ready."),
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		s.booted = s.begun.Add(-time.Duration(info.Uptime) * time.Second)
	}
	return s
}

// registering notes an attempt to register; the first counts.
func (s *startup) registering() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attempted.IsZero() {
		s.attempted = time.Now()
	}
}

// registered notes that a node was made that had not been there.
func (s *startup) registered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.made.IsZero() {
		return
	}
	s.made = time.Now()
	if !s.booted.IsZero() {
		s.preKubelet.Set(s.begun.Sub(s.booted).Seconds())
	}
	s.preRegistration.Set(s.attempted.Sub(s.begun).Seconds())
	s.registration.Set(s.made.Sub(s.attempted).Seconds())
}

// ready notes that the node's status says so.
func (s *startup) ready() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made.IsZero() || !s.readyTime.IsZero() {
		return
	}
	s.readyTime = time.Now()
	s.postRegistration.Set(s.readyTime.Sub(s.made).Seconds())
	if !s.booted.IsZero() {
		s.total.Set(s.readyTime.Sub(s.booted).Seconds())
	}
}
