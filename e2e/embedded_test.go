package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// embeddedStack is a stack without an apiserver, whose kubelets are their own runtime.
func embeddedStack(t *testing.T) (context.Context, *stack.Stack) {
	t.Helper()
	ctx := onStack(t)
	s, err := stack.Start(ctx, stack.Options{Runtime: stack.Embedded, NoControlPlane: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, s
}

// embeddedKubelet starts a standalone kubelet that is its own runtime.
func embeddedKubelet(t *testing.T, s *stack.Stack, args ...string) *stack.Kubelet {
	t.Helper()
	k, err := s.StartKubelet(stack.KubeletOptions{Standalone: true, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("kubelet's log:\n%s", k.LogTail(60))
		}
	})
	return k
}

// standalone waits until the kubelet tells of one pod what is wanted.
func standalone(ctx context.Context, t *testing.T, s *stack.Stack, what string, done func(corev1.Pod) bool) corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	eventually(ctx, t, what, func() bool {
		pods, err := s.StandalonePods(ctx)
		if err != nil || len(pods) != 1 {
			return false
		}
		pod = pods[0]
		return done(pod)
	})
	return pod
}

func isReady(pod corev1.Pod) bool { return stack.PodReady(&pod) }

// TestEmbedded: a kubelet that is its own runtime runs a pod, answers the CRI beside it, and leaves the pod running
// whatever ends it; the next kubelet takes the pod over as it is.
func TestEmbedded(t *testing.T) {
	ctx, s := embeddedStack(t)
	before, err := s.Resources()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.ManifestDir(), "pod.yaml")
	write(t, file, fmt.Sprintf(manifest, "pod", "red"))
	k := embeddedKubelet(t, s)
	pod := standalone(ctx, t, s, "the pod is ready", isReady)
	first := pod.Status.ContainerStatuses[0]
	if got := criNames(ctx, t, s); got != "crid app" {
		t.Errorf("the CRI beside the kubelet: %q", got)
	}
	if info, err := os.Stat(s.RuntimeSocket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		if err := k.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := k.Wait(ctx); (err == nil) != (signal == syscall.SIGTERM) {
			t.Errorf("the kubelet's end after %v: %v", signal, err)
		}
		eventually(ctx, t, fmt.Sprintf("the pod answers after %v", signal), func() bool { // which it may begin to only after it is Ready
			_, err := s.Get(ctx, "http://"+pod.Status.PodIP+":8080/")
			return err == nil
		})
		k = embeddedKubelet(t, s)
		pod = standalone(ctx, t, s, "the pod is ready again", isReady)
		if now := pod.Status.ContainerStatuses[0]; now.ContainerID != first.ContainerID || now.RestartCount != 0 ||
			now.State.Running == nil || !now.State.Running.StartedAt.Equal(&first.State.Running.StartedAt) {
			t.Errorf("after %v the container is %+v, was %+v", signal, now, first)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "the pod is gone", func() bool { return criNames(ctx, t, s) == "crid" })
	if err := k.Stop(20 * time.Second); err != nil {
		t.Error(err)
	}
	// What stays is the kubelet's own: its directory, which it shares mounts in, its cgroups, and the bridge.
	var left []string
	defer func() { t.Log("left in the end:", left) }()
	eventually(ctx, t, "nothing is left", func() bool {
		after, err := s.Resources()
		if err != nil {
			t.Fatal(err)
		}
		left = slices.DeleteFunc(stack.Leaked(before, after), func(r string) bool {
			return r == "mount "+s.RootDir() || strings.Contains(r, "cgroup ") || strings.Contains(r, "interface cni0")
		})
		return len(left) == 0
	})
}

// criNames asks what crictl would: the runtime's name and its containers' names, or those of sandboxes that have none.
func criNames(ctx context.Context, t *testing.T, s *stack.Stack) string {
	t.Helper()
	client := runtimeapi.NewRuntimeServiceClient(s.CRI)
	version, err := client.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	sandboxes, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{version.GetRuntimeName()}
	for _, c := range list.GetContainers() {
		names = append(names, c.GetMetadata().GetName())
	}
	for _, sandbox := range sandboxes.GetItems() {
		if len(list.GetContainers()) == 0 {
			names = append(names, "sandbox "+sandbox.GetMetadata().GetName())
		}
	}
	return strings.Join(names, " ")
}

// TestEmbeddedRefuses: what the embedded runtime lacks is named, with the package that has it.
func TestEmbeddedRefuses(t *testing.T) {
	ctx, s := embeddedStack(t)
	old := filepath.Join(s.Dir, "old-runc")
	write(t, old, "#!/bin/sh\necho runc version 1.1.5\n")
	if err := os.Chmod(old, 0o755); err != nil {
		t.Fatal(err)
	}
	for arg, want := range map[string]string{
		"--conmon=/not/there":           "install the package conmon",
		"--oci-runtime=other=/not/runc": "install the package runc",
		"--oci-runtime=other=" + old:    "runc 1.1.5 has known ways out of a container",
	} {
		k := embeddedKubelet(t, s, arg)
		if err := k.Wait(ctx); err == nil {
			t.Errorf("%s: the kubelet ended well", arg)
		}
		if !strings.Contains(k.LogTail(5), want) {
			t.Errorf("%s: the kubelet does not say %q:\n%s", arg, want, k.LogTail(5))
		}
	}
	// A second kubelet must not take the first one's containers.
	k := embeddedKubelet(t, s, "--healthz-port=0")
	eventually(ctx, t, "the kubelet serves", func() bool { _, err := s.StandalonePods(ctx); return err == nil })
	second := embeddedKubelet(t, s, "--healthz-port=0")
	if err := second.Wait(ctx); err == nil || !strings.Contains(second.LogTail(5), "another server uses the socket") {
		t.Errorf("a second kubelet: %v, %s", err, second.LogTail(5))
	}
	if err := k.Stop(20 * time.Second); err != nil {
		t.Error(err)
	}
}
