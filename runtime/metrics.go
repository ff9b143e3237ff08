package runtime

import (
	"context"
	"errors"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"minikubelet/runtime/plan"
)

// metrics count starts of pods and containers, under upstream's names.
type metrics struct {
	pods, podErrors             prometheus.Counter
	containers, containerErrors *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	f := promauto.With(registerer)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "kubelet_" + name, Help: help})
	}
	vector := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_" + name, Help: help}, labels)
	}
	return &metrics{
		pods:            counter("started_pods_total", "Sandboxes that were begun."),
		podErrors:       counter("started_pods_errors_total", "Sandboxes that failed to start."),
		containers:      vector("started_containers_total", "Containers whose start was begun.", "container_type"),
		containerErrors: vector("started_containers_errors_total", "Containers that failed to start, with the reason.", "container_type", "code"),
	}
}

// sandbox counts an attempt to make a sandbox.
func (m *metrics) sandbox(ctx context.Context, err error) {
	m.pods.Inc()
	if err != nil && ctx.Err() == nil {
		m.podErrors.Inc()
	}
}

// container counts an attempt to start a container; the code is the failure's reason.
func (m *metrics) container(kind plan.Kind, err error) {
	label := strings.ReplaceAll(string(kind), " ", "_")
	m.containers.WithLabelValues(label).Inc()
	if failed, ok := errors.AsType[*containerError](err); ok {
		m.containerErrors.WithLabelValues(label, failed.Reason).Inc()
	}
}
