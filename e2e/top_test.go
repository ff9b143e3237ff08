package e2e

import (
	"bytes"
	"math"
	"net/http"
	"slices"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	rbacv1 "k8s.io/api/rbac/v1"

	corev1 "k8s.io/api/core/v1"
)

// TestTop: /metrics/resource has what metrics-server reads, and so what kubectl top shows: asked for by the account of a
// collector, which may read nodes/metrics and nothing else, and through the apiserver's proxy.
func TestTop(t *testing.T) {
	ctx, s := node(t)
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{shell("busy", "while :; do :; done"), shell("idle", "sleep 1000")}
	pod = ready(ctx, t, pod)
	collector := serviceAccount(ctx, t, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes/metrics"}, Verbs: []string{"get"}})
	for name, scrape := range map[string]func() []byte{
		"as metrics-server does": func() []byte {
			code, body := askKubelet(ctx, t, kubeletClient(t, ""), collector, "GET /metrics/resource")
			if code != http.StatusOK {
				t.Fatalf("%d %s", code, body)
			}
			return []byte(body)
		},
		"through the apiserver": func() []byte {
			body, err := s.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(s.NodeName).SubResource("proxy").Suffix("metrics/resource").DoRaw(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return body
		},
	} {
		t.Run(name, func(t *testing.T) {
			eventually(ctx, t, "both containers are measured", func() bool { return bytes.Count(scrape(), []byte(`pod="`+pod.Name+`"`)) >= 8 })
			first := readMetrics(t, scrape())
			checkNode(t, first)
			for _, c := range []string{"busy", "idle"} {
				checkContainer(t, first, pod, c)
			}
			// A rate needs two readings that differ in their time.
			eventually(ctx, t, "another reading of the busy container", func() bool {
				a, b := ofContainer(first["container_cpu_usage_seconds_total"], pod, "busy"), ofContainer(readMetrics(t, scrape())["container_cpu_usage_seconds_total"], pod, "busy")
				return b != nil && b.GetTimestampMs() > a.GetTimestampMs() && b.GetCounter().GetValue() > a.GetCounter().GetValue()
			})
		})
	}
}

func readMetrics(t *testing.T, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return families
}

// recent tells whether a reading is of the last minute.
func recent(m *dto.Metric) bool {
	return m.TimestampMs != nil && math.Abs(time.Since(time.UnixMilli(m.GetTimestampMs())).Minutes()) < 1
}

func checkNode(t *testing.T, families map[string]*dto.MetricFamily) {
	t.Helper()
	cpu, memory := families["node_cpu_usage_seconds_total"], families["node_memory_working_set_bytes"]
	if m := cpu.GetMetric(); cpu.GetType() != dto.MetricType_COUNTER || len(m) != 1 || len(m[0].GetLabel()) != 0 || m[0].GetCounter().GetValue() <= 0 || !recent(m[0]) {
		t.Errorf("node_cpu_usage_seconds_total: %v", cpu)
	}
	if m := memory.GetMetric(); memory.GetType() != dto.MetricType_GAUGE || len(m) != 1 || len(m[0].GetLabel()) != 0 || m[0].GetGauge().GetValue() < 1<<20 || !recent(m[0]) {
		t.Errorf("node_memory_working_set_bytes: %v", memory)
	}
}

func checkContainer(t *testing.T, families map[string]*dto.MetricFamily, pod *corev1.Pod, container string) {
	t.Helper()
	cpu, memory, start := families["container_cpu_usage_seconds_total"], families["container_memory_working_set_bytes"], families["container_start_time_seconds"]
	if m := ofContainer(cpu, pod, container); cpu.GetType() != dto.MetricType_COUNTER || m == nil || m.GetCounter().GetValue() <= 0 || !recent(m) {
		t.Errorf("%s: container_cpu_usage_seconds_total: %v", container, m)
	}
	if m := ofContainer(memory, pod, container); memory.GetType() != dto.MetricType_GAUGE || m == nil || m.GetGauge().GetValue() < 1<<12 || !recent(m) {
		t.Errorf("%s: container_memory_working_set_bytes: %v", container, m)
	}
	m := ofContainer(start, pod, container)
	if m == nil || start.GetType() != dto.MetricType_GAUGE || m.TimestampMs != nil {
		t.Fatalf("%s: container_start_time_seconds: %v", container, m)
	}
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == container && math.Abs(m.GetGauge().GetValue()-float64(s.State.Running.StartedAt.Unix())) > 5 {
			t.Errorf("%s started at %v, not at %v", container, m.GetGauge().GetValue(), s.State.Running.StartedAt)
		}
	}
}

// ofContainer finds the one series of a container that has its three labels and no other.
func ofContainer(family *dto.MetricFamily, pod *corev1.Pod, container string) *dto.Metric {
	var found *dto.Metric
	for _, m := range family.GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetName()+"="+l.GetValue())
		}
		slices.Sort(labels)
		if slices.Equal(labels, []string{"container=" + container, "namespace=" + pod.Namespace, "pod=" + pod.Name}) {
			if found != nil {
				return nil
			}
			found = m
		}
	}
	return found
}
