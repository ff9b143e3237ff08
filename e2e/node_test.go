package e2e

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/stack"
)

// TestNode: what the node says of itself.
func TestNode(t *testing.T) {
	ctx, s := nodeWith(t, stack.KubeletOptions{Args: []string{"--node-labels=colour=blue"}})
	defer stopKubelet(t)
	n, err := s.WaitNode(ctx, "ready and labelled", func(n *corev1.Node) bool { return stack.NodeReady(n) && n.Labels["colour"] == "blue" })
	if err != nil {
		t.Fatal(err)
	}
	if n.Labels[corev1.LabelHostname] != s.NodeName || n.Labels[corev1.LabelOSStable] != "linux" {
		t.Errorf("labels: %v", n.Labels)
	}
	if !slices.Contains(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: stack.NodeIP}) {
		t.Errorf("addresses: %v", n.Status.Addresses)
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourcePods, corev1.ResourceEphemeralStorage} {
		capacity, allocatable := n.Status.Capacity[name], n.Status.Allocatable[name]
		if capacity.IsZero() || allocatable.Cmp(capacity) > 0 {
			t.Errorf("%s: capacity %v, allocatable %v", name, capacity.String(), allocatable.String())
		}
	}
	if n.Status.NodeInfo.ContainerRuntimeVersion == "" || n.Status.NodeInfo.KernelVersion == "" || n.Status.NodeInfo.BootID == "" {
		t.Errorf("node info: %+v", n.Status.NodeInfo)
	}
	for _, condition := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == condition && c.Status == corev1.ConditionFalse
		}) {
			t.Errorf("condition %s is not false: %v", condition, n.Status.Conditions)
		}
	}
	event(ctx, t, s.NodeName, "Starting")
	eventually(ctx, t, "the lease is kept", func() bool { // it comes after the node
		lease, err := s.Client.CoordinationV1().Leases("kube-node-lease").Get(ctx, s.NodeName, metav1.GetOptions{})
		return err == nil && time.Since(lease.Spec.RenewTime.Time) < time.Minute
	})
}

// TestReadyAtOnce: a kubelet that starts beside a running runtime makes its node Ready without waiting for the next update of
// the status, which would be ten minutes later here.
func TestReadyAtOnce(t *testing.T) {
	ctx := onStack(t)
	if kubelet != nil {
		stopKubelet(t)
	}
	if err := shared.Client.CoreV1().Nodes().Delete(ctx, shared.NodeName, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	start := time.Now()
	startKubelet(ctx, t, stack.KubeletOptions{Config: map[string]any{"nodeStatusUpdateFrequency": "10m"}})
	t.Logf("Ready after %v", time.Since(start))
	stopKubelet(t)
}
