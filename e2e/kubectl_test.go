package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
	corev1 "k8s.io/api/core/v1"

	"minikubelet/e2e/stack"
)

// TestKubectlDebug: an ephemeral container beside the others, its log, a command in it, and a user at its input; a changed
// copy of the pod; and a pod that sees the node.
func TestKubectlDebug(t *testing.T) {
	ctx, s := node(t)
	pod := ready(ctx, t, newPod(t))
	kubectlRun(ctx, t, "debug", pod.Name, "--image="+stack.BusyboxImage, "-c=debugger", "--attach=false", "--", "sh", "-c", "echo debugging; sleep 1000")
	until(ctx, t, pod, "debugged", func(p *corev1.Pod) bool {
		return len(p.Status.EphemeralContainerStatuses) == 1 && p.Status.EphemeralContainerStatuses[0].State.Running != nil
	})
	eventually(ctx, t, "the debugger wrote", func() bool { return kubectlRun(ctx, t, "logs", pod.Name, "-c=debugger") == "debugging\n" })
	if out := kubectlRun(ctx, t, "exec", pod.Name, "-c=debugger", "--", "hostname"); strings.TrimSpace(out) != pod.Name {
		t.Errorf("hostname in the debugger: %q", out)
	}
	typeIntoDebugger(ctx, t, pod, "while sleep 0.2; do echo it is $(hostname); ps; done\n", "it is "+pod.Name, "testapp")

	twin := &corev1.Pod{}
	twin.Name, twin.Namespace = pod.Name+"-copy", pod.Namespace
	kubectlRun(ctx, t, "debug", pod.Name, "--copy-to="+twin.Name, "--same-node", "--share-processes", "--image="+stack.BusyboxImage, "-c=debugger", "--attach=false", "--", "sleep", "1000")
	defer func() { kubectlRun(ctx, t, "delete", "pod", twin.Name, "--grace-period=0", "--force") }()
	if _, err := s.WaitPodReady(ctx, twin.Namespace, twin.Name); err != nil {
		t.Fatal(err)
	}
	if out := kubectlRun(ctx, t, "exec", twin.Name, "-c=debugger", "--", "ps"); !strings.Contains(out, "testapp") {
		t.Errorf("the copy's processes: %q", out)
	}

	mark := filepath.Join(s.Dir, "mark")
	write(t, mark, "of the node\n")
	stdout, stderr, code := kubectlWith(ctx, t, nil, "debug", "node/"+s.NodeName, "-i", "--image="+stack.BusyboxImage, "--", "cat", "/host"+mark)
	name := regexp.MustCompile("node-debugger-[-a-z0-9]+").FindString(stdout + stderr)
	if name == "" {
		t.Fatalf("kubectl debug node: exit code %d, %q, %s", code, stdout, stderr)
	}
	defer func() { kubectlRun(ctx, t, "delete", "pod", name, "--grace-period=0", "--force") }()
	if logged := kubectlRun(ctx, t, "logs", name); code != 0 || logged != "of the node\n" {
		t.Errorf("a file of the node: exit code %d, %q, log %q, %s", code, stdout, logged, stderr)
	}
}

// typeIntoDebugger types a line into a shell beside the pod's processes, and waits until it has answered with all that is wanted.
// Its input stays open: kubectl debug goes away with it.
func typeIntoDebugger(ctx testContext, t *testing.T, pod *corev1.Pod, line string, wanted ...string) {
	t.Helper()
	cmd := shared.KubectlCommand(ctx, "debug", "-i", pod.Name, "--image="+stack.BusyboxImage, "-c=shell", "--target=app", "--", "sh")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if _, err := io.WriteString(stdin, line); err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	for answers := bufio.NewScanner(stdout); answers.Scan(); {
		seen.WriteString(answers.Text())
		if !slices.ContainsFunc(wanted, func(w string) bool { return !strings.Contains(seen.String(), w) }) {
			return
		}
	}
	t.Errorf("typed into a debugger, %q is answered with %q, want %q in it", line, seen.String(), wanted)
}

// TestKubectlSPDY: kubectl from before WebSockets: commands, what is typed, files and ports.
func TestKubectlSPDY(t *testing.T) {
	t.Setenv("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
	t.Setenv("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")
	t.Run("exec", TestKubectlExec)
	t.Run("attach", TestKubectlAttach)
	t.Run("cp", TestKubectlCopy)
	t.Run("port-forward", TestKubectlPortForward)
}

// TestKubectlCopyTree: directories with all that is in them, and files with names that a shell would trip over.
func TestKubectlCopyTree(t *testing.T) {
	ctx, _ := node(t)
	pod := ready(ctx, t, sleeper(t))
	dir := t.TempDir()
	files := map[string][]byte{"a b/$c;'d": random(t, 1<<20), "a b/empty": nil, "ü/x/y/z": random(t, 3)}
	for name, data := range files {
		path := filepath.Join(dir, "in", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kubectlRun(ctx, t, "cp", filepath.Join(dir, "in"), pod.Name+":/tree")
	kubectlRun(ctx, t, "cp", pod.Name+":/tree", filepath.Join(dir, "out"))
	for name, data := range files {
		if back, err := os.ReadFile(filepath.Join(dir, "out", name)); err != nil || !bytes.Equal(back, data) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(back), len(data), err)
		}
	}
}

// TestLogStreams: one stream of the two, as a client with the feature PodLogsQuerySplitStreams asks for it; and bytes that are no
// text, and a line that the runtime writes in parts.
func TestLogStreams(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{
		shell("app", "echo out; echo err >&2; echo done; sleep 1000"),
		shell("odd", `printf '\000\377\001\n'; head -c 100000 /dev/zero | tr '\000' x; echo; echo done; sleep 1000`),
	}
	ready(ctx, t, pod)
	admin := kubeletClient(t, "admin", "system:masters")
	ask := func(query string) (int, string) {
		return askKubelet(ctx, t, admin, "", "GET /containerLogs/default/"+pod.Name+"/app?"+query)
	}
	eventually(ctx, t, "the container wrote", func() bool { _, all := ask(""); return strings.Count(all, "\n") == 3 })
	for stream, want := range map[string]string{"Stdout": "out\ndone\n", "Stderr": "err\n"} {
		if code, body := ask("stream=" + stream); code != http.StatusOK || body != want {
			t.Errorf("%s: %d %q", stream, code, body)
		}
	}
	odd := "\x00\xff\x01\n" + strings.Repeat("x", 100000) + "\ndone\n"
	eventually(ctx, t, "the other container wrote", func() bool {
		return kubectlRun(ctx, t, "logs", pod.Name, "-c=odd", "--tail=1") == "done\n"
	})
	for args, want := range map[string]string{"--tail=-1": odd, "--limit-bytes=50000": odd[:50000]} {
		if out := kubectlRun(ctx, t, "logs", pod.Name, "-c=odd", args); out != want {
			t.Errorf("%s: %d bytes of %d, %.20q", args, len(out), len(want), out)
		}
	}
	for query, want := range map[string]int{"stream=None": 422, "tailLines=-1": 422, "sinceTime=now": 400, "stream=Stdout&tailLines=1": 422} {
		if code, body := ask(query); code != want {
			t.Errorf("%s: %d %q, want %d", query, code, body, want)
		}
	}
}

// TestTerminalSize: a window that changes its size changes the container's terminal.
func TestTerminalSize(t *testing.T) {
	ctx, _ := node(t)
	pod := ready(ctx, t, sleeper(t))
	script := `for size in "43 132" "25 80"; do until [ "$(stty size)" = "$size" ]; do sleep 0.1; done; echo "[$size]"; done`
	conn := dialExec(ctx, t, pod, url.Values{"command": {"sh", "-c", script}, "input": {"1"}, "output": {"1"}, "tty": {"1"}}.Encode())
	var got strings.Builder
	for _, window := range []struct{ message, want string }{{`{"Width":132,"Height":43}`, "[43 132]"}, {`{"Width":80,"Height":25}`, "[25 80]"}} {
		if err := websocket.Message.Send(conn, append([]byte{4}, window.message...)); err != nil { // channel 4 is the window
			t.Fatal(err)
		}
		for !strings.Contains(got.String(), window.want) {
			var part []byte
			if err := websocket.Message.Receive(conn, &part); err != nil {
				t.Fatalf("%v after %q", err, got.String())
			}
			if len(part) > 0 && part[0] == 1 {
				got.Write(part[1:])
			}
		}
	}
}

// TestFollowThroughRotation: who follows a log that the kubelet rotates and compresses misses no line.
func TestFollowThroughRotation(t *testing.T) {
	ctx, s := nodeWith(t, stack.KubeletOptions{Config: map[string]any{
		"containerLogMaxSize": "20Ki", "containerLogMaxFiles": 3, "containerLogMonitorInterval": "3s",
	}})
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{shell("app", "i=0; while true; do i=$((i+1)); echo line $i; [ $((i%20)) != 0 ] || sleep 0.05; done")}
	pod = ready(ctx, t, pod)
	cmd := s.KubectlCommand(ctx, "logs", "-f", pod.Name)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	dir := fmt.Sprintf("%s/%s_%s_%s/app", s.PodLogsDir(), pod.Namespace, pod.Name, pod.UID)
	rotated := map[string]bool{} // the names of files that there were
	lines := bufio.NewScanner(pipe)
	for last := 0; len(rotated) < 3; last++ {
		if !lines.Scan() {
			t.Fatalf("the log ends after line %d: %v", last, lines.Err())
		}
		if want := fmt.Sprint("line ", last+1); lines.Text() != want {
			t.Fatalf("%q stands where %q should", lines.Text(), want)
		}
		if last%100 != 0 {
			continue
		}
		found, err := filepath.Glob(dir + "/0.log.*")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			rotated[strings.TrimSuffix(strings.TrimSuffix(name, ".gz"), ".tmp")] = true
		}
	}
}

// TestCheckpoint: the runtime here cannot do it, for want of CRIU: who asks is told so, and no file is left.
func TestCheckpoint(t *testing.T) {
	ctx, s := node(t)
	pod := ready(ctx, t, sleeper(t))
	code, body := askKubelet(ctx, t, kubeletClient(t, "admin", "system:masters"), "", "POST /checkpoint/default/"+pod.Name+"/app")
	files, err := filepath.Glob(filepath.Join(s.RootDir(), "checkpoints", "*"))
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case code == http.StatusOK: // a machine that has it
		if len(files) != 1 || !strings.Contains(body, files[0]) {
			t.Errorf("%s; files %v", body, files)
		}
		for _, f := range files {
			removeFile(t, f)
		}
	case !strings.Contains(strings.ToLower(body), "checkpoint") || len(files) > 0:
		t.Errorf("%d %s; files %v", code, body, files)
	}
}
