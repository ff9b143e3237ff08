package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

const manifest = `apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: "testapp:1", env: [{name: COLOUR, value: %s}]}
`

// TestStaticPod: from a manifest's coming to its going, with its mirror, and a bad manifest beside it.
func TestStaticPod(t *testing.T) {
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
	if mirror.Annotations["kubernetes.io/config.source"] != "file" || mirror.Annotations["kubernetes.io/config.mirror"] == "" {
		t.Errorf("annotations of the mirror: %v", mirror.Annotations)
	}
	if owner := metav1.GetControllerOf(mirror); owner == nil || owner.Kind != "Node" || owner.Name != s.NodeName {
		t.Errorf("the mirror's controller is %v, want the node", owner)
	}

	// A bad manifest is told about and leaves the others running.
	bad := filepath.Join(s.ManifestDir(), "bad.yaml")
	write(t, bad, "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: a, image: b, commmand: [x]}]}\n")
	defer os.Remove(bad)
	eventually(ctx, t, "the log names the file and the field", func() bool {
		return strings.Contains(kubelet.Log(), "bad.yaml") && strings.Contains(kubelet.Log(), "commmand")
	})

	// A changed manifest is another pod.
	write(t, file, fmt.Sprintf(manifest, name, "blue"))
	changed := until(ctx, t, mirror, "the changed one, ready", func(p *corev1.Pod) bool { return p.UID != mirror.UID && stack.PodReady(p) })
	if env := get(ctx, t, "http://"+changed.Status.PodIP+":8080/env"); !strings.Contains(env, "COLOUR=blue") {
		t.Errorf("environment of the changed pod: %q", env)
	}

	// A deleted mirror comes back; the pod never noticed.
	if err := s.Client.CoreV1().Pods("default").Delete(ctx, full, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
	back := until(ctx, t, mirror, "made again", func(p *corev1.Pod) bool { return p.UID != changed.UID && stack.PodReady(p) })
	if id := back.Status.ContainerStatuses[0].ContainerID; id != changed.Status.ContainerStatuses[0].ContainerID {
		t.Errorf("deleting the mirror replaced the container: %s", id)
	}

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitPodGone(ctx, "default", full); err != nil {
		t.Fatal(err)
	}
}

// TestStaticPodWithoutAPIServer: static pods come and go while the apiserver is away.
func TestStaticPodWithoutAPIServer(t *testing.T) {
	ctx, s := node(t)
	name := podName(t)
	file := filepath.Join(s.ManifestDir(), name+".yaml")
	t.Cleanup(func() { _ = os.Remove(file) })
	stopComponent(ctx, t, stack.APIServer)
	write(t, file, fmt.Sprintf(manifest, name, "red"))
	eventually(ctx, t, "the static pod runs", func() bool { return len(running(ctx, t, name+"-"+s.NodeName)) == 1 })
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "the static pod is gone", func() bool { return len(running(ctx, t, name+"-"+s.NodeName)) == 0 })
	startComponent(ctx, t, stack.APIServer)
	if _, err := s.WaitNodeReady(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestStaticPodBeforeAPIServer: a kubelet that starts before the apiserver runs its static pods, one of which may be the apiserver.
func TestStaticPodBeforeAPIServer(t *testing.T) {
	ctx, s := node(t)
	name := podName(t)
	file := filepath.Join(s.ManifestDir(), name+".yaml")
	t.Cleanup(func() { _ = os.Remove(file) })
	stopKubelet(t)
	stopComponent(ctx, t, stack.APIServer)
	write(t, file, fmt.Sprintf(manifest, name, "red"))
	k, err := s.StartKubelet(stack.KubeletOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kubelet, options = k, stack.KubeletOptions{}
	eventually(ctx, t, "the static pod runs", func() bool { return len(running(ctx, t, name+"-"+s.NodeName)) == 1 })
	startComponent(ctx, t, stack.APIServer)
	if _, err := s.WaitPodReady(ctx, corev1.NamespaceDefault, name+"-"+s.NodeName); err != nil {
		t.Fatalf("the mirror pod: %v", err)
	}
}

// TestStaticPodPutBack: a manifest that is put back while its pod still ends is the same pod, and is started again.
func TestStaticPodPutBack(t *testing.T) {
	ctx, s := node(t)
	name := podName(t)
	file, full := filepath.Join(s.ManifestDir(), name+".yaml"), name+"-"+s.NodeName
	t.Cleanup(func() { _ = os.Remove(file) })
	slow := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  terminationGracePeriodSeconds: 4\n  containers:\n"+
		"  - {name: app, image: %q, command: [sh, -c, \"trap '' TERM; while :; do sleep 1; done\"]}\n", name, stack.BusyboxImage)
	write(t, file, slow)
	var first string
	eventually(ctx, t, "the static pod runs", func() bool {
		for _, c := range running(ctx, t, full) {
			first = c.GetId()
		}
		return first != ""
	})
	removeFile(t, file)
	eventually(ctx, t, "the pod ends", func() bool {
		for line := range strings.Lines(kubelet.Log()) {
			if strings.Contains(line, "Pod changes phase") && strings.Contains(line, full) && strings.Contains(line, `to="Terminating"`) {
				return true
			}
		}
		return false
	})
	write(t, file, slow)
	eventually(ctx, t, "it runs again", func() bool {
		now := running(ctx, t, full)
		return len(now) == 1 && now[0].GetId() != first
	})
	removeFile(t, file)
	eventually(ctx, t, "it is gone", func() bool { return len(running(ctx, t, full)) == 0 })
}

// TestStaticPodPutBackAtOnce: a manifest that is removed and made again without a pause restarts the pod's container.
func TestStaticPodPutBackAtOnce(t *testing.T) {
	ctx, s := node(t)
	name := podName(t)
	file, full := filepath.Join(s.ManifestDir(), name+".yaml"), name+"-"+s.NodeName
	t.Cleanup(func() { _ = os.Remove(file) })
	write(t, file, fmt.Sprintf(manifest, name, "red"))
	mirror, err := s.WaitPodReady(ctx, "default", full)
	if err != nil {
		t.Fatal(err)
	}
	removeFile(t, file)
	write(t, file, fmt.Sprintf(manifest, name, "red"))
	again := until(ctx, t, mirror, "restarted once and ready", func(p *corev1.Pod) bool { return restarts(p) == 1 && stack.PodReady(p) })
	if again.Status.ContainerStatuses[0].ContainerID == mirror.Status.ContainerStatuses[0].ContainerID {
		t.Error("the container is the same")
	}
	removeFile(t, file)
	if err := s.WaitPodGone(ctx, "default", full); err != nil {
		t.Fatal(err)
	}
}

// running lists the running containers of a pod, as the runtime knows them.
func running(ctx testContext, t *testing.T, pod string) []*runtimeapi.Container {
	t.Helper()
	answer, err := runtimeapi.NewRuntimeServiceClient(shared.CRI).ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State:         &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
		LabelSelector: map[string]string{"io.kubernetes.pod.name": pod},
	}}, grpc.WaitForReady(true)) // a kubelet that was just started may be the runtime
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetContainers()
}
