package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/stack"
)

// TestPreemption: on a full node a static pod takes the place of another pod, and one that finds no room waits for it.
func TestPreemption(t *testing.T) {
	ctx, s := node(t)
	name := podName(t)
	at, err := s.Client.CoreV1().Nodes().Get(ctx, s.NodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	most := at.Status.Allocatable.Cpu().MilliValue() - 100
	fill := func(priorityClass string) *corev1.Pod {
		pod := newPod(t)
		pod.Spec.PriorityClassName = priorityClass
		pod.Namespace = metav1.NamespaceSystem
		pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(most, resource.DecimalSI)}
		return ready(ctx, t, pod)
	}
	file, full := filepath.Join(s.ManifestDir(), name+".yaml"), name+"-"+s.NodeName
	t.Cleanup(func() { _ = os.Remove(file) })
	static := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n"+
		"  - {name: app, image: %q, resources: {requests: {cpu: 500m}}}\n", name, stack.TestappImage)

	holder := fill("")
	write(t, file, static)
	if _, err := s.WaitPodReady(ctx, "default", full); err != nil {
		t.Fatal(err)
	}
	gone := phase(ctx, t, holder, corev1.PodFailed)
	if gone.Status.Reason != "Preempting" || gone.Status.Message != "Preempted in order to admit critical pod" {
		t.Errorf("the pod that made room: %s, %s", gone.Status.Reason, gone.Status.Message)
	}
	if !strings.Contains(event(ctx, t, holder.Name, "Preempting"), "Preempted in order to admit critical pod") {
		t.Error("no event tells of it")
	}
	told(ctx, t, holder.Namespace+"/"+holder.Name, "Preempting")
	removeFile(t, file)
	if err := s.WaitPodGone(ctx, "default", full); err != nil {
		t.Fatal(err)
	}

	// A pod that is as critical stays.
	holder = fill("system-node-critical")
	write(t, file, static)
	eventually(ctx, t, "the static pod is refused", func() bool {
		for line := range strings.Lines(kubelet.Log()) {
			if strings.Contains(line, "Pod admission denied") && strings.Contains(line, full) {
				return true
			}
		}
		return false
	})
	remove(ctx, t, holder)
	if _, err := s.WaitPodReady(ctx, "default", full); err != nil {
		t.Fatal(err)
	}
	removeFile(t, file)
	if err := s.WaitPodGone(ctx, "default", full); err != nil {
		t.Fatal(err)
	}
}
