package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/debugger"
	"minikubelet/e2e/stack"
)

// TestDebugger: a debugger attaches over the network, stops where a pod comes in and where its sandbox is made, and holds
// the kubelet there for longer than the node's lease lasts. The lease goes on (--debug-hold), and so does the pod then.
func TestDebugger(t *testing.T) {
	ctx := onStack(t)
	dlv := os.Getenv(debugger.Env)
	if dlv == "" {
		t.Skipf("end-to-end: %s is not set; make e2e sets it", debugger.Env)
	}
	if kubelet != nil {
		stopKubelet(t)
	}
	binary := filepath.Join(shared.Dir, "kubelet.debug")
	if err := debugger.Build(ctx, "..", binary); err != nil {
		t.Fatal(err)
	}
	const address, lease = "127.0.0.1:2345", 4 * time.Second
	k, err := shared.StartKubelet(stack.KubeletOptions{
		Args: []string{"--debug-hold"}, Config: map[string]any{"nodeLeaseDurationSeconds": int(lease.Seconds())},
		Wrap: debugger.Wrap(dlv, address, binary, "--accept-multiclient"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the kubelet's log ends:\n%s", k.LogTail(40))
		}
		// A kubelet that runs on when its debugger is killed would hold its ports.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		held, _ := exec.Command("pgrep", "-P", fmt.Sprint(k.Pid())).Output()
		if err := k.Kill(); err != nil {
			t.Error(err)
		}
		for text := range strings.FieldsSeq(string(held)) {
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Error(err)
				continue
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Error(err)
			}
			eventually(clean, t, "the kubelet has ended", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
		}
	})
	if err := debugger.WaitListening(ctx, k); err != nil {
		t.Fatal(err)
	}
	pod := newPod(t)
	script := filepath.Join(t.TempDir(), "stops.dlv")
	write(t, script, fmt.Sprintf(`break additions minikubelet/syncloop.(*Loop).HandlePodAdditions if len(pods) == 1 && pods[0].ObjectMeta.Name == %[1]q
on additions print pods[0].ObjectMeta.Name
break sandbox minikubelet/runtime.(*Runtime).createPodSandbox if pod.ObjectMeta.Name == %[1]q
on sandbox print pod.Spec.Containers[0].Image
continue
`, pod.Name))
	renewed := func() time.Time {
		l, err := shared.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, shared.NodeName, metav1.GetOptions{})
		if err != nil || l.Spec.RenewTime == nil {
			return time.Time{}
		}
		return l.Spec.RenewTime.Time
	}
	attached := make(chan struct{})
	go func() { // the pod comes when the kubelet runs and the node is there
		defer close(attached)
		if _, err := shared.WaitNodeReady(ctx); err != nil {
			t.Error(err)
		}
		create(ctx, t, pod)
	}()
	client := exec.CommandContext(ctx, "nsenter", "--net="+shared.NetnsPath(), dlv, "connect", address, "--init", script)
	stops, printed, err := debugger.Follow(client, func(stop string) string {
		if stop != "additions" {
			return "clearall\nquit -c\n"
		}
		held := time.Now()
		eventually(ctx, t, "the lease is renewed again and again while nothing of the kubelet runs", func() bool {
			return renewed().After(held.Add(lease))
		})
		return "continue\n"
	})
	<-attached
	if err != nil {
		t.Error(err)
	}
	if !slices.Equal(stops, []string{"additions", "sandbox"}) {
		t.Errorf("it stopped at %v", stops)
	}
	for _, what := range []string{`pods[0].ObjectMeta.Name: "` + pod.Name + `"`, `pod.Spec.Containers[0].Image: "` + stack.TestappImage + `"`} {
		if !strings.Contains(printed, what) {
			t.Errorf("no stop printed %s", what)
		}
	}
	if t.Failed() {
		t.Fatalf("dlv said:\n%s", printed)
	}
	until(ctx, t, pod, "Ready", stack.PodReady)
	remove(ctx, t, pod)
}
