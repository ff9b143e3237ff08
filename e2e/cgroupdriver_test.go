package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/e2e/stack"
)

// TestCgroupDriverLate: a kubelet that starts before its runtime, with another cgroup driver in its settings, registers its node, says why no pod
// starts, and takes the runtime's driver when that is there.
func TestCgroupDriverLate(t *testing.T) {
	ctx, s := node(t)
	stopKubelet(t)
	stopComponent(ctx, t, stack.Containerd)
	o := stack.KubeletOptions{Args: []string{"--cgroup-driver=systemd"}} // the runtimes of these tests use cgroupfs
	k, err := s.StartKubelet(o)
	if err != nil {
		t.Fatal(err)
	}
	kubelet, options = k, o
	const why = "the container runtime has not told its cgroup driver"
	if _, err := s.WaitNode(ctx, "not ready for want of a driver", func(n *corev1.Node) bool {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, why) {
				return true
			}
		}
		return false
	}); err != nil {
		t.Fatal(err)
	}
	pod := create(ctx, t, newPod(t))
	startComponent(ctx, t, stack.Containerd)
	if _, err := s.WaitNodeReady(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitPodReady(ctx, pod.Namespace, pod.Name); err != nil {
		t.Fatal(err)
	}
	if log := kubelet.LogTail(10000); !strings.Contains(log, why) || !strings.Contains(log, "the runtime's counts") {
		t.Error("the log does not say what the kubelet waited for, and what it took")
	}
}
