package e2e

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"minikubelet/e2e/stack"
)

// TestKubectlTop: kubectl top shows the node, the pod and its containers, by a real metrics-server: it knows the node's server
// by the certificate, the node's server knows it by its token, and it may read nodes/metrics and nothing else of the node.
func TestKubectlTop(t *testing.T) {
	ctx, s := node(t)
	if _, err := os.Stat(s.Program(stack.MetricsServer)); err != nil {
		t.Fatal("metrics-server is not built: make stack builds it")
	}
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{
		shell("busy", "while :; do :; done"),
		shell("big", "dd if=/dev/zero of=/dev/shm/file bs=1M count=40; sleep 1000"),
	}
	pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("300m")}
	ready(ctx, t, pod)
	process, stop, err := s.StartMetricsServer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("metrics-server's log:\n%s", process.LogTail(40))
		}
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if err := stop(clean); err != nil {
			t.Error(err)
		}
	})
	var top map[string]usage // by container
	eventually(ctx, t, "metrics-server has readings of both containers", func() bool {
		select {
		case <-process.Done():
			t.Fatal("metrics-server has ended")
		default:
		}
		top = readTop(ctx, t, 1, "pod", pod.Name, "--containers")
		return len(top) == 2
	})
	if u := top["busy"]; u.cpu < 30 || u.cpu > 600 || u.memory > 20<<20 {
		t.Errorf("a container that may use 300m of CPU: %+v", u)
	}
	if u := top["big"]; u.cpu > 100 || u.memory < 40<<20 || u.memory > 100<<20 {
		t.Errorf("a container that has 40 MiB: %+v", u)
	}
	if u := readTop(ctx, t, 0, "pod", pod.Name)[pod.Name]; u.cpu < 30 || u.memory < 40<<20 {
		t.Errorf("the pod: %+v", u)
	}
	var whole usage
	eventually(ctx, t, "metrics-server has readings of the node", func() bool { // which has been there longer than the pod
		whole = readTop(ctx, t, 0, "node")[s.NodeName]
		return whole != usage{}
	})
	if whole.cpu < 30 || whole.memory < 40<<20 {
		t.Errorf("the node: %+v", whole)
	}
}

// usage is what kubectl top shows.
type usage struct{ cpu, memory int64 } // in thousandths and bytes

// readTop runs kubectl top and returns its lines by the word in a column. It has none while there are too few readings.
func readTop(ctx context.Context, t *testing.T, column int, args ...string) map[string]usage {
	t.Helper()
	stdout, stderr, code := kubectlWith(ctx, t, nil, append(append([]string{"top"}, args...), "--no-headers")...)
	if code != 0 {
		if !strings.Contains(stderr, "not available") && !strings.Contains(stderr, "not found") && !strings.Contains(stderr, "unable to handle the request") {
			t.Fatalf("kubectl top %v: %s", args, stderr)
		}
		return nil
	}
	found := map[string]usage{}
	for line := range strings.Lines(stdout) {
		words := strings.Fields(line)
		if len(words) < column+3 {
			t.Fatalf("kubectl top %v: %q", args, line)
		}
		var u usage
		for i, into := range []*int64{&u.cpu, &u.memory} {
			value := words[column+1+i]
			if args[0] == "node" && i == 1 {
				value = words[column+3] // behind the share of the CPU
			}
			q, err := resource.ParseQuantity(value)
			if err != nil {
				t.Fatalf("kubectl top %v: %q: %v", args, line, err)
			}
			*into = q.Value()
			if i == 0 {
				*into = q.MilliValue()
			}
		}
		found[words[column]] = u
	}
	return found
}
