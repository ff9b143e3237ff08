package e2e

import (
	"context"
	"runtime"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/stack"
)

// TestNodeFromElsewhere: a node that is told to set its role, which the plugin NodeRestriction forbids, and how many pods each core may
// have, registers with what it may have.
func TestNodeFromElsewhere(t *testing.T) {
	ctx := onStack(t)
	if kubelet != nil {
		stopKubelet(t)
	}
	nodes := shared.Client.CoreV1().Nodes()
	remove := func() {
		if err := nodes.Delete(context.WithoutCancel(ctx), shared.NodeName, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	}
	remove()
	startKubelet(ctx, t, stack.KubeletOptions{
		Args:   []string{"--node-labels=from=elsewhere,node-role.kubernetes.io/worker", "--cloud-provider=openstack", "--network-plugin=cni", "--allow_privileged"},
		Config: map[string]any{"podsPerCore": 3, "configMapAndSecretChangeDetectionStrategy": "Cache", "noSuchField": true},
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("kubelet's log:\n%s", kubelet.LogTail(80))
		}
		stopKubelet(t)
		remove()
	})
	n, err := nodes.Get(ctx, shared.NodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, has := n.Labels["node-role.kubernetes.io/worker"]; has || n.Labels["from"] != "elsewhere" {
		t.Errorf("the labels are %v", n.Labels)
	}
	if want := int64(3 * runtime.NumCPU()); n.Status.Capacity.Pods().Value() != want || n.Status.Allocatable.Pods().Value() != want {
		t.Errorf("room for %v pods, want %d", n.Status.Capacity.Pods(), want)
	}
	if slices.ContainsFunc(n.Spec.Taints, func(taint corev1.Taint) bool { return taint.Key == "node.cloudprovider.kubernetes.io/uninitialized" }) {
		t.Errorf("the taints are %v", n.Spec.Taints)
	}
}
