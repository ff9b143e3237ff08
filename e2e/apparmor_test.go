package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestAppArmor: a pod that asks for a profile, by field or by annotation, is rejected on a machine that has none.
func TestAppArmor(t *testing.T) {
	if strings.HasPrefix(read(t, "/sys/module/apparmor/parameters/enabled"), "Y") {
		t.Skip("this machine has AppArmor")
	}
	ctx, s := node(t)
	for _, ask := range []func(*corev1.Pod){
		func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}}
		},
		func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + p.Spec.Containers[0].Name: "runtime/default"}
		},
	} {
		pod := newPod(t)
		ask(pod)
		made, err := s.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := until(ctx, t, made, "rejected", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
		if got.Status.Reason != "AppArmor" || !strings.Contains(got.Status.Message, "Cannot enforce AppArmor: AppArmor is not enabled on the host") {
			t.Errorf("reason %q, message %q", got.Status.Reason, got.Status.Message)
		}
		told(ctx, t, got.Name, "AppArmor")
		remove(ctx, t, got)
	}
}

// TestNodeLabels: what the machine is stays in the node's labels.
func TestNodeLabels(t *testing.T) {
	ctx, s := node(t)
	patch := []byte(`{"metadata":{"labels":{"kubernetes.io/os":"dummyOS","kubernetes.io/arch":null}}}`)
	if _, err := s.Client.CoreV1().Nodes().Patch(ctx, s.NodeName, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitNode(ctx, "labelled right again", func(n *corev1.Node) bool {
		return n.Labels[corev1.LabelOSStable] == "linux" && n.Labels[corev1.LabelArchStable] != ""
	}); err != nil {
		t.Fatal(err)
	}
}
