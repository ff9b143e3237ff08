package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"minikubelet/e2e/stack"
)

// TestLocalCommands: a kubelet without an apiserver is asked, followed, entered, and stops a pod by its own program.
func TestLocalCommands(t *testing.T) {
	ctx := onStack(t)
	if kubelet != nil {
		stopKubelet(t)
	}
	startKubelet(ctx, t, stack.KubeletOptions{Standalone: true, Args: []string{"--debug-hold"}})
	defer stopKubelet(t)
	eventually(ctx, t, "the log says what --debug-hold does without an apiserver", func() bool {
		return strings.Contains(kubelet.Log(), "--debug-hold: calls to the runtime may take an hour; there is no apiserver, and so no lease to renew")
	})
	name := podName(t)
	following, cancel := context.WithCancel(ctx)
	defer cancel()
	var seen lockedText
	watcher := exec.CommandContext(following, shared.KubeletBinary, "watch", "--root-dir="+shared.RootDir())
	watcher.Stdout, watcher.Stderr = &seen, &seen
	eventually(ctx, t, "the local socket answers", func() bool { _, err := ask(ctx, "pods"); return err == nil })
	if err := watcher.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = watcher.Wait() }()

	file := filepath.Join(shared.ManifestDir(), name+".yaml")
	write(t, file, fmt.Sprintf(manifest, name, "red"))
	defer func() { _ = os.Remove(file) }()
	eventually(ctx, t, "the watcher tells of the pod", func() bool { return strings.Contains(seen.String(), name+"-"+shared.NodeName+" Ready 1/1") })
	if out, err := ask(ctx, "pods"); err != nil || !strings.Contains(out, name+"-"+shared.NodeName) || !strings.Contains(out, "NAMESPACE") {
		t.Errorf("kubelet pods: %v\n%s", err, out)
	}
	all, err := ask(ctx, "logs", name)
	if err != nil || all == "" {
		t.Errorf("kubelet logs: %v", err)
	}
	for flags, want := range map[string]string{
		"--tail=-1": all, "--since=1h": all, "--since-time=2000-01-01T00:00:00Z": all, "--limit-bytes=0": all, "--limit-bytes=3": all[:min(3, len(all))],
	} {
		if out, err := ask(ctx, "logs", name, flags); err != nil || !strings.HasPrefix(out, want) || flags == "--limit-bytes=3" && out != want {
			t.Errorf("kubelet logs %s: %v\n%s", flags, err, out)
		}
	}
	if out, err := ask(ctx, "logs", name, "--tail=1"); err != nil || strings.Count(out, "\n") != 1 {
		t.Errorf("kubelet logs: %v\n%s", err, out)
	}
	if out, err := ask(ctx, "explain", "pod", name); err != nil || !strings.Contains(out, "The kubelet took it from file.") {
		t.Errorf("kubelet explain: %v\n%s", err, out)
	}
	if out, err := ask(ctx, "stop", name, "--grace-period=1"); err != nil || !strings.Contains(out, "has ended") {
		t.Errorf("kubelet stop: %v\n%s", err, out)
	}
	told(ctx, t, name, "Stopped")
	if _, err := ask(ctx, "explain", "pod", "no-such"); err == nil || !strings.Contains(err.Error(), "default/no-such is not on this node") {
		t.Errorf("a pod that is not there: %v", err)
	}
	write(t, file, fmt.Sprintf(manifest, name, "green")) // another manifest, another pod
	eventually(ctx, t, "the changed pod runs", func() bool {
		out, err := ask(ctx, "pods")
		return err == nil && strings.Contains(out, "1/1") && strings.Contains(out, "Ready")
	})
	removeFile(t, file)
	eventually(ctx, t, "the watcher tells that it is gone", func() bool { return strings.Contains(seen.String(), name+"-"+shared.NodeName+" gone") })
	eventually(ctx, t, "nothing of it runs", func() bool { return len(running(ctx, t, name+"-"+shared.NodeName)) == 0 })
}

// TestLocalExec: a command's output and exit code come back, with an apiserver too, whose pods are not stopped here.
func TestLocalExec(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Containers[0] = shell("app", "echo hello; sleep 1000")
	ready(ctx, t, pod)
	out, err := ask(ctx, "exec", pod.Name, "--", "sh", "-c", "echo -n from inside; exit 3")
	if code := new(exec.ExitError); !asExit(err, code) || code.ExitCode() != 3 || out != "from inside" {
		t.Errorf("exec: %v, %q", err, out)
	}
	for _, args := range [][]string{{"logs", pod.Name}, {"logs", "-n", "default", pod.Name}, {"logs", pod.Name, "--namespace=default"}} {
		if out, err := ask(ctx, args...); err != nil || out != "hello\n" {
			t.Errorf("%q: %v, %q", args, err, out)
		}
	}
	for namespace, want := range map[string]bool{"default": true, "kube-system": false} {
		if out, err := ask(ctx, "pods", "-n", namespace); err != nil || strings.Contains(out, pod.Name) != want {
			t.Errorf("pods of %s: %v\n%s", namespace, err, out)
		}
	}
	if _, err := ask(ctx, "stop", pod.Name); err == nil || !strings.Contains(err.Error(), "kubectl -n default delete pod") {
		t.Errorf("stop of the apiserver's pod: %v", err)
	}
	info, err := os.Stat(filepath.Join(shared.RootDir(), "local", "kubelet.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
}
