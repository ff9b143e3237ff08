package e2e

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/e2e/stack"
)

// TestChosenByLabel: a pod that chose its node by a label that the kubelet does not set goes on when the kubelet starts again.
func TestChosenByLabel(t *testing.T) {
	ctx, s := node(t)
	const label = "example.com/chosen-by-label"
	set := func(ctx context.Context, value string) {
		t.Helper()
		patch := fmt.Sprintf(`{"metadata": {"labels": {%q: %s}}}`, label, value)
		if _, err := s.Client.CoreV1().Nodes().Patch(ctx, s.NodeName, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	stopKubelet(t)
	set(ctx, `"yes"`)
	t.Cleanup(func() { set(context.WithoutCancel(ctx), "null") })
	startKubelet(ctx, t, stack.KubeletOptions{})
	pod := newPod(t)
	pod.Spec.NodeSelector = map[string]string{label: "yes"}
	before := ready(ctx, t, pod)
	stopKubelet(t)
	startKubelet(ctx, t, stack.KubeletOptions{})
	remove(ctx, t, ready(ctx, t, newPod(t))) // by then the pods that were there are admitted
	now, err := s.Client.CoreV1().Pods(before.Namespace).Get(ctx, before.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if now.Status.Phase != corev1.PodRunning || restarts(now) != 0 {
		t.Errorf("the pod is %s (%s: %s), restarted %d times", now.Status.Phase, now.Status.Reason, now.Status.Message, restarts(now))
	}
}
