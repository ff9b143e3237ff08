package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/stack"
)

// TestNodeDeleted: a node that somebody deletes comes back, its lease and its static pods' mirrors belong to the new one,
// and what runs on it goes on.
func TestNodeDeleted(t *testing.T) {
	ctx, s := node(t)
	name := podName(t)
	file := filepath.Join(s.ManifestDir(), name+".yaml")
	t.Cleanup(func() { _ = os.Remove(file) })
	write(t, file, fmt.Sprintf(manifest, name, "red"))
	full := name + "-" + s.NodeName
	mirror, err := s.WaitPodReady(ctx, "default", full)
	if err != nil {
		t.Fatal(err)
	}
	pod := ready(ctx, t, newPod(t))
	container := mirror.Status.ContainerStatuses[0].ContainerID
	for range 2 {
		before, err := s.WaitNodeReady(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Client.CoreV1().Nodes().Delete(ctx, s.NodeName, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		now, err := s.WaitNode(ctx, "made again and ready", func(n *corev1.Node) bool { return n.UID != before.UID && stack.NodeReady(n) })
		if err != nil {
			t.Fatal(err)
		}
		ownedBy := func(m metav1.Object) bool {
			owners := m.GetOwnerReferences()
			return len(owners) == 1 && owners[0].Kind == "Node" && owners[0].UID == now.UID
		}
		mirror = until(ctx, t, mirror, "the new node's, and ready", func(p *corev1.Pod) bool { return ownedBy(p) && stack.PodReady(p) })
		eventually(ctx, t, "the lease is the new node's", func() bool {
			lease, err := s.Client.CoordinationV1().Leases("kube-node-lease").Get(ctx, s.NodeName, metav1.GetOptions{})
			return err == nil && ownedBy(lease)
		})
		eventually(ctx, t, "the CSINode is the new node's", func() bool {
			csi, err := s.Client.StorageV1().CSINodes().Get(ctx, s.NodeName, metav1.GetOptions{})
			return err == nil && ownedBy(csi)
		})
	}
	if id := mirror.Status.ContainerStatuses[0].ContainerID; id != container {
		t.Errorf("the static pod's container was replaced: %s, was %s", id, container)
	}
	after, err := s.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if err != nil || after.UID != pod.UID || restarts(after) != 0 {
		t.Errorf("the pod of before: %v, %v", after, err)
	}
	ready(ctx, t, newPod(t)) // pods still come
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitPodGone(ctx, "default", full); err != nil {
		t.Fatal(err)
	}
}
