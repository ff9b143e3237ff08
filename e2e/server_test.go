package e2e

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// kubectl is a command of the stack's kubectl as its cluster's administrator, inside the stack's network.
func kubectl(ctx context.Context, args ...string) *exec.Cmd {
	all := append([]string{"--net=" + shared.NetnsPath(), shared.Program("kubectl"), "--kubeconfig=" + shared.AdminKubeconfig}, args...)
	return exec.CommandContext(ctx, "nsenter", all...)
}

// run returns what kubectl wrote to both streams, and fails the test if it fails.
func kubectlRun(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := kubectl(ctx, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// TestKubectlLogs: what containers wrote, whole, in part, of both attempts, and as it comes.
func TestKubectlLogs(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{shell("app", "for i in 1 2 3 4 5; do echo line-$i; done; echo wrong >&2; sleep 1000")}
	pod = ready(ctx, t, pod)
	eventually(ctx, t, "the container wrote all", func() bool { return strings.Contains(kubectlRun(ctx, t, "logs", pod.Name), "wrong") })
	if out := kubectlRun(ctx, t, "logs", pod.Name); out != "line-1\nline-2\nline-3\nline-4\nline-5\nwrong\n" {
		t.Errorf("logs: %q", out)
	}
	if out := kubectlRun(ctx, t, "logs", pod.Name, "--tail=2"); out != "line-5\nwrong\n" {
		t.Errorf("logs --tail=2: %q", out)
	}
}

// TestKubectlExec: commands with input, output, errors and exit codes.
func TestKubectlExec(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{shell("app", "sleep 1000")}
	pod = ready(ctx, t, pod)
	cmd := kubectl(ctx, "exec", "-i", pod.Name, "--", "sh", "-c", "cat; echo oops >&2; exit 7")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("hello"), &stdout, &stderr
	_ = cmd.Run()
	if stdout.String() != "hello" || !strings.Contains(stderr.String(), "oops") || cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("exec: stdout %q, stderr %q, exit code %d", stdout.String(), stderr.String(), cmd.ProcessState.ExitCode())
	}
}
