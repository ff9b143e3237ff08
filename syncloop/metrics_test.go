package syncloop

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/e2e/metricstest"
)

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
		metricstest.Want(t, b.registry,
			`kubelet_desired_pods{static="true"} 1`, `kubelet_desired_pods{static=""} 2`,
			`kubelet_active_pods{static="true"} 1`, `kubelet_active_pods{static=""} 1`,
			`kubelet_mirror_pods 0`, `kubelet_managed_ephemeral_containers 1`,
			`kubelet_admission_rejections_total{reason="OutOfpods"} 1`,
		)
	})
}
