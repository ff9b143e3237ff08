package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"minikubelet/e2e/stack"
)

// TestStaticPodOutlivesKubelet: a static pod that is not touched looks the same to the apiserver when the kubelet has
// started again, from the first write on.
func TestStaticPodOutlivesKubelet(t *testing.T) {
	ctx, s := node(t)
	name := podName(t)
	file, full := filepath.Join(s.ManifestDir(), name+".yaml"), name+"-"+s.NodeName
	t.Cleanup(func() { _ = os.Remove(file) })
	write(t, file, fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n"+
		"  - {name: app, image: %q, readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 5}}\n", name, stack.TestappImage))
	before, err := s.WaitPodReady(ctx, "default", full)
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := s.Client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{
		FieldSelector: "metadata.name=" + full, ResourceVersion: before.ResourceVersion,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	stopKubelet(t)
	startKubelet(ctx, t, stack.KubeletOptions{})
	// Another pod's way from beginning to end is the time that the static one has to change.
	remove(ctx, t, ready(ctx, t, newPod(t)))
	for more := true; more; {
		select {
		case e := <-watcher.ResultChan():
			now, ok := e.Object.(*corev1.Pod)
			if !ok || e.Type != watch.Modified {
				t.Fatalf("the mirror: %s", e.Type)
			}
			if !now.Status.StartTime.Equal(before.Status.StartTime) {
				t.Errorf("started %v, before %v", now.Status.StartTime, before.Status.StartTime)
			}
			for i, c := range now.Status.Conditions {
				if b := before.Status.Conditions[i]; c.Status != b.Status || !c.LastTransitionTime.Equal(&b.LastTransitionTime) {
					t.Errorf("%s is %s since %v, before %s since %v", c.Type, c.Status, c.LastTransitionTime, b.Status, b.LastTransitionTime)
				}
			}
		default:
			more = false
		}
	}
}

// TestMirrorOutlivesStaticPod: who looks at the apiserver sees a static pod until nothing of it runs.
func TestMirrorOutlivesStaticPod(t *testing.T) {
	ctx, s := node(t)
	name := podName(t)
	file, full := filepath.Join(s.ManifestDir(), name+".yaml"), name+"-"+s.NodeName
	t.Cleanup(func() { _ = os.Remove(file) })
	write(t, file, fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  terminationGracePeriodSeconds: 4\n  containers:\n"+
		"  - {name: app, image: %q, command: [sh, -c, \"trap '' TERM; while :; do sleep 1; done\"]}\n", name, stack.BusyboxImage))
	if _, err := s.WaitPodReady(ctx, "default", full); err != nil {
		t.Fatal(err)
	}
	removeFile(t, file)
	if err := s.WaitPodGone(ctx, "default", full); err != nil {
		t.Fatal(err)
	}
	if n := len(running(ctx, t, full)); n != 0 {
		t.Errorf("%d containers of the pod run without their mirror", n)
	}
}
