package syncloop

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
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

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newFake(), t.TempDir(), nil)
		b.MaxPods = 2
		b.start(b.PLEG.Run)
		static := testPod("static", func(p *corev1.Pod) { p.Annotations[podinfo.SourceAnnotation] = "file" })
		debugged := testPod("debugged", func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "image:1"}}}
		})
		b.HandlePodAdditions(b.ctx, []*corev1.Pod{static})
		b.HandlePodAdditions(b.ctx, []*corev1.Pod{debugged})
		b.HandlePodAdditions(b.ctx, []*corev1.Pod{testPod("surplus", nil)})
		b.wait(time.Second)
		b.housekeeping(b.ctx)
		wantMetrics(t, b.registry,
			`kubelet_desired_pods{static="true"} 1`, `kubelet_desired_pods{static=""} 2`,
			`kubelet_active_pods{static="true"} 1`, `kubelet_active_pods{static=""} 1`,
			`kubelet_mirror_pods 0`, `kubelet_managed_ephemeral_containers 1`,
			`kubelet_admission_rejections_total{reason="OutOfpods"} 1`,
		)
	})
}
