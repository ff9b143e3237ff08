package probes

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"minikubelet/e2e/metricstest"
)

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.now.Store(reading("1", time.Now()))
		registry := prometheus.NewRegistry()
		m := w.manager()
		m.metrics = newMetrics(registry)
		m.Add(t.Context(), podWith(func(c *corev1.Container) { c.ReadinessProbe = execProbe(10, 3) }))
		<-m.Results()
		synctest.Wait()
		w.sick.Store(true)
		time.Sleep(25 * time.Second)
		metricstest.Want(t, registry,
			`prober_probe_total{container="c",namespace="ns",pod="p",pod_uid="u",probe_type="Readiness",result="successful"} 1`,
			`prober_probe_total{container="c",namespace="ns",pod="p",pod_uid="u",probe_type="Readiness",result="failed"} 2`,
			`prober_probe_duration_seconds_count{container="c",namespace="ns",pod="p",probe_type="Readiness"} 1`,
		)
		m.Remove("u")
		if text := metricstest.Scrape(registry); strings.Contains(text, "prober_") {
			t.Errorf("the pod is gone, its probes are still counted:\n%s", text)
		}
	})
}
