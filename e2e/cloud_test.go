package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/e2e/stack"
)

// TestCloudProviderExternal: a kubelet with --cloud-provider=external registers its node with the taint that waits for
// the cloud controller, without addresses; what the controller then writes stays, and is what pods see.
func TestCloudProviderExternal(t *testing.T) {
	ctx := onStack(t)
	if kubelet != nil {
		stopKubelet(t)
	}
	nodes := shared.Client.CoreV1().Nodes()
	if err := nodes.Delete(ctx, shared.NodeName, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	noAddress := func(args []string) []string {
		return slices.DeleteFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--node-ip=") })
	}
	startKubelet(ctx, t, stack.KubeletOptions{
		Args: []string{"--cloud-provider=external"}, Wrap: noAddress, Config: map[string]any{"nodeStatusUpdateFrequency": "1s"},
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("kubelet's log:\n%s", kubelet.LogTail(80))
		}
		stopKubelet(t)
		// The next kubelet's node shall not be the cloud's.
		if err := nodes.Delete(context.WithoutCancel(ctx), shared.NodeName, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	n, err := nodes.Get(ctx, shared.NodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	taint := corev1.Taint{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule}
	if !slices.Contains(n.Spec.Taints, taint) {
		t.Errorf("taints of the new node: %v", n.Spec.Taints)
	}
	if want := []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: shared.NodeName}}; !slices.Equal(n.Status.Addresses, want) {
		t.Errorf("addresses of the new node: %v", n.Status.Addresses)
	}
	pod := newPod(t)
	pod.Spec.HostNetwork = true
	c := shell("app", "echo $HOST; sleep 1000")
	c.Env = []corev1.EnvVar{{Name: "HOST", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.hostIP"}}}}
	pod.Spec.Containers = []corev1.Container{c}
	pod = waitingFor(ctx, t, create(ctx, t, pod), "CreateContainerConfigError")

	// What a cloud controller does.
	addresses := []corev1.NodeAddress{{Type: corev1.NodeExternalIP, Address: "203.0.113.1"}, {Type: corev1.NodeInternalIP, Address: stack.NodeIP}, {Type: corev1.NodeHostName, Address: "cloud-name"}}
	change := func(body map[string]any, sub ...string) {
		t.Helper()
		data, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nodes.Patch(ctx, shared.NodeName, types.MergePatchType, data, metav1.PatchOptions{}, sub...); err != nil {
			t.Fatal(err)
		}
	}
	others := slices.DeleteFunc(n.Spec.Taints, func(have corev1.Taint) bool { return have == taint })
	change(map[string]any{"spec": map[string]any{"taints": others, "providerID": "cloud://zone/1"}})
	change(map[string]any{"status": map[string]any{"addresses": addresses}}, "status")

	// The kubelet puts the label right with the next status that it writes.
	change(map[string]any{"metadata": map[string]any{"labels": map[string]string{corev1.LabelOSStable: "none"}}})
	n, err = shared.WaitNode(ctx, "labelled again", func(n *corev1.Node) bool { return n.Labels[corev1.LabelOSStable] == "linux" })
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(n.Status.Addresses, addresses) || n.Spec.ProviderID != "cloud://zone/1" || slices.Contains(n.Spec.Taints, taint) {
		t.Errorf("what the controller wrote became addresses %v, provider ID %q, taints %v", n.Status.Addresses, n.Spec.ProviderID, n.Spec.Taints)
	}
	pod = until(ctx, t, pod, "ready, with the controller's address", func(p *corev1.Pod) bool {
		return stack.PodReady(p) && p.Status.HostIP == stack.NodeIP && p.Status.PodIP == stack.NodeIP
	})
	if got, want := logs(t, pod, "app", 0), fmt.Sprintln(stack.NodeIP); !strings.Contains(got, want) {
		t.Errorf("the container's log is %q, want %q", got, want)
	}
}
