package kubelet

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/status"
	"minikubelet/syncloop"
)

// TestPodsWithStatus: a static pod that ran before the kubelet started is not told of as ready before its containers are.
func TestPodsWithStatus(t *testing.T) {
	start := metav1.NewTime(time.Unix(1000, 0))
	pod := func(name, source string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: "1", Annotations: map[string]string{podinfo.SourceAnnotation: source}},
			Status: corev1.PodStatus{StartTime: &start, Conditions: []corev1.PodCondition{
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: start},
			}},
		}
	}
	for _, tt := range []struct {
		name, source string
		computed     bool
		phase        corev1.PodPhase
		conditions   int
	}{
		{name: "static, before its first status", source: podinfo.SourceFile, phase: corev1.PodPending},
		{name: "static, after it", source: podinfo.SourceFile, computed: true, phase: corev1.PodRunning},
		{name: "of the apiserver", source: podinfo.SourceAPI, conditions: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &core{pods: syncloop.NewPods(), status: status.New(status.Options{})}
			c.pods.Set(pod("pod", tt.source))
			if tt.computed {
				c.status.Set(pod("pod", tt.source), corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &start})
			}
			got := c.podsWithStatus()[0].Status
			if got.Phase != tt.phase || len(got.Conditions) != tt.conditions || !got.StartTime.Equal(&start) {
				t.Errorf("the status is %+v", got)
			}
		})
	}
}
