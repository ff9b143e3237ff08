package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// kubectlRun returns what kubectl wrote to its output, and fails the test if it fails.
func kubectlRun(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, code := kubectlWith(ctx, t, nil, args...)
	if code != 0 {
		t.Fatalf("kubectl %s: exit code %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// kubectlWith returns what kubectl made of an input.
func kubectlWith(ctx context.Context, t *testing.T, stdin io.Reader, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, problems bytes.Buffer
	cmd := shared.KubectlCommand(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &problems
	err := cmd.Run()
	if exit, ended := errors.AsType[*exec.ExitError](err); ended {
		return out.String(), problems.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), problems.String(), 0
}

// random is binary data of a size.
func random(t *testing.T, size int) []byte {
	t.Helper()
	data := make([]byte, size)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	return data
}

// sleeper is a pod that does nothing, for commands to run in.
func sleeper(t *testing.T) *corev1.Pod {
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{shell("app", "trap 'exit 0' TERM; sleep 1000 & wait")}
	return pod
}

// TestKubectlLogs: what a container wrote, whole and in part.
func TestKubectlLogs(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{
		shell("app", "for i in 1 2 3 4 5; do echo line-$i; done; sleep 0.5; echo wrong >&2; sleep 1000"),
		shell("big", "i=0; while [ $i -lt 60000 ]; do echo $i-abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz; i=$((i+1)); done; echo end; sleep 1000"),
	}
	pod = ready(ctx, t, pod)
	get := func(args ...string) string {
		t.Helper()
		return kubectlRun(ctx, t, append([]string{"logs", pod.Name}, args...)...)
	}
	eventually(ctx, t, "the container wrote all", func() bool { return strings.Contains(get("-c=app"), "wrong") })
	eventually(ctx, t, "the other container wrote all", func() bool { return get("-c=big", "--tail=1") == "end\n" })
	whole := "line-1\nline-2\nline-3\nline-4\nline-5\nwrong\n"
	for args, want := range map[string]string{
		"-c=app": whole, "-c=app --tail=2": "line-5\nwrong\n", "-c=app --tail=0": "", "-c=app --limit-bytes=9": "line-1\nli",
		"-c=app --since=1h": whole, "-c=app --since-time=2099-01-01T00:00:00Z": "",
		"-c=big --tail=2": "59999-abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz\nend\n",
	} {
		if out := get(strings.Fields(args)...); out != want {
			t.Errorf("logs %s: %q, want %q", args, out, want)
		}
	}
	if big := get("-c=big"); strings.Count(big, "\n") != 60001 || !strings.HasPrefix(big, "0-abc") || !strings.HasSuffix(big, "z\nend\n") {
		t.Errorf("logs of the big container: %d bytes, %d lines", len(big), strings.Count(big, "\n"))
	}
	stamped := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d) line-1\n$`)
	if out := get("-c=app", "--timestamps", "--tail=6"); !stamped.MatchString(out[:strings.Index(out, "\n")+1]) {
		t.Errorf("logs --timestamps: %q", out)
	}
	for args, want := range map[string]string{"-c=none": "none", "-c=app --previous": "previous terminated container \"app\" in pod"} {
		if _, stderr, code := kubectlWith(ctx, t, nil, append([]string{"logs", pod.Name}, strings.Fields(args)...)...); code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("logs %s: exit code %d, %s", args, code, stderr)
		}
	}
}

// TestKubectlLogsFollow: lines come as they are written, through a rotation, and the end of the container is the end.
func TestKubectlLogsFollow(t *testing.T) {
	ctx, s := node(t)
	pod := newPod(t)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.Containers = []corev1.Container{shell("app", "mkfifo /p; exec 3<>/p; echo begin; while read x <&3; do [ $x = stop ] && break; echo got-$x; done; echo end")}
	pod = ready(ctx, t, pod)
	cmd := s.KubectlCommand(ctx, "logs", "-f", pod.Name)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(pipe)
	expect := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("read %q (%v), want %q", lines.Text(), lines.Err(), want)
		}
	}
	send := func(word string) { kubectlRun(ctx, t, "exec", pod.Name, "--", "sh", "-c", "echo "+word+" >/p") }
	expect("begin")
	send("one")
	expect("got-one")
	path := fmt.Sprintf("%s/%s_%s_%s/app/0.log", s.PodLogsDir(), pod.Namespace, pod.Name, pod.UID)
	if err := os.Rename(path, path+".20260101-000000"); err != nil {
		t.Fatal(err)
	}
	send("two") // into the old file
	expect("got-two")
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	if _, err := runtimeapi.NewRuntimeServiceClient(s.CRI).ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	send("three")
	expect("got-three")
	_ = s.KubectlCommand(ctx, "exec", pod.Name, "--", "sh", "-c", "echo stop >/p").Run() // fails if the container's end kills its shell first
	expect("end")
	if lines.Scan() {
		t.Errorf("after the end: %q", lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("kubectl logs -f: %v", err)
	}
}

// TestKubectlLogsPrevious: the attempt before, while the container runs and while it waits.
func TestKubectlLogsPrevious(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{shell("app", "n=$(cat /data/n 2>/dev/null || echo 0); echo $((n+1)) >/data/n; echo attempt-$n; [ $n -gt 1 ] && sleep 1000; exit 1")}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	pod = create(ctx, t, pod)
	waitingFor(ctx, t, pod, "CrashLoopBackOff")
	for _, args := range [][]string{{"logs", pod.Name}, {"logs", pod.Name, "--previous"}} {
		if out := kubectlRun(ctx, t, args...); out != "attempt-1\n" {
			t.Errorf("while it waits, %v: %q", args, out)
		}
	}
	until(ctx, t, pod, "restarted", func(p *corev1.Pod) bool { return restarts(p) == 2 && stack.PodReady(p) })
	eventually(ctx, t, "the third attempt wrote", func() bool { return kubectlRun(ctx, t, "logs", pod.Name) == "attempt-2\n" })
	if out := kubectlRun(ctx, t, "logs", pod.Name, "--previous"); out != "attempt-1\n" {
		t.Errorf("--previous: %q", out)
	}
}

// TestKubectlExec: input, output, errors, exit codes, and data of any kind and size.
func TestKubectlExec(t *testing.T) {
	ctx, _ := node(t)
	pod := ready(ctx, t, sleeper(t))
	stdout, stderr, code := kubectlWith(ctx, t, strings.NewReader("hello"), "exec", "-i", pod.Name, "--", "sh", "-c", "cat; echo oops >&2; exit 7")
	if stdout != "hello" || !strings.Contains(stderr, "oops") || code != 7 {
		t.Errorf("exec: stdout %q, stderr %q, exit code %d", stdout, stderr, code)
	}
	data := random(t, 8<<20)
	if stdout, stderr, code := kubectlWith(ctx, t, bytes.NewReader(data), "exec", "-i", pod.Name, "--", "cat"); code != 0 || stdout != string(data) {
		t.Errorf("%d bytes of %d came back; exit code %d, %s", len(stdout), len(data), code, stderr)
	}
	if out := kubectlRun(ctx, t, "exec", pod.Name, "--", "printf", `%s|`, "a b", "", "ü", "$HOME", "&x=1"); out != "a b||ü|$HOME|&x=1|" {
		t.Errorf("arguments: %q", out)
	}
	if _, stderr, code := kubectlWith(ctx, t, nil, "exec", pod.Name, "--", "no-such-command"); code == 0 || !strings.Contains(stderr, "no-such-command") {
		t.Errorf("a command that is not there: exit code %d, %s", code, stderr)
	}
}

// TestExecWebSocket: WebSockets straight to the node's server, as the runtime speaks them, with and without a terminal.
func TestExecWebSocket(t *testing.T) {
	ctx, _ := node(t)
	pod := ready(ctx, t, sleeper(t))
	for query, want := range map[string]string{
		"command=cat&input=1&output=1":                    "hello\n",
		"command=tty&input=1&output=1&tty=1":              "/dev/pts/0\r\n",
		"command=sh&command=-c&command=echo%20x&output=1": "x\n",
	} {
		conn := dialExec(ctx, t, pod, query)
		if strings.Contains(query, "input=1") {
			if err := websocket.Message.Send(conn, []byte("\x00hello\n")); err != nil { // channel 0 is the input
				t.Fatal(err)
			}
		}
		var got strings.Builder
		for !strings.Contains(got.String(), want) {
			var message []byte
			if err := websocket.Message.Receive(conn, &message); err != nil {
				t.Fatalf("%s: %v after %q", query, err, got.String())
			}
			if len(message) > 0 && message[0] == 1 { // channel 1 is the output
				got.Write(message[1:])
			}
		}
	}
}

// dialExec opens a WebSocket for a command in a pod's container app.
func dialExec(ctx context.Context, t *testing.T, pod *corev1.Pod, query string) *websocket.Conn {
	t.Helper()
	at := strings.TrimPrefix(shared.KubeletURL(), "https://")
	config, err := websocket.NewConfig("wss://"+at+"/exec/default/"+pod.Name+"/app?"+query, "https://"+at)
	if err != nil {
		t.Fatal(err)
	}
	config.Protocol = []string{"v4.channel.k8s.io"}
	raw, err := shared.DialContext(ctx, "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	secure := kubeletClient(t, "admin", "system:masters").Transport.(*http.Transport).TLSClientConfig.Clone()
	secure.ServerName = stack.NodeIP
	conn, err := websocket.NewClient(config, tls.Client(raw, secure))
	if err != nil {
		t.Fatal(err)
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestKubectlStatic: a static pod is reached by the name of its mirror.
func TestKubectlStatic(t *testing.T) {
	ctx, s := node(t)
	name := podName(t)
	file := filepath.Join(s.ManifestDir(), name+".yaml")
	write(t, file, "apiVersion: v1\nkind: Pod\nmetadata: {name: "+name+", namespace: default}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n"+
		"  - {name: app, image: '"+stack.BusyboxImage+"', imagePullPolicy: IfNotPresent, command: [sh, -c, 'echo static; sleep 1000']}\n")
	defer func() {
		removeFile(t, file)
		if err := s.WaitPodGone(ctx, "default", name+"-"+s.NodeName); err != nil {
			t.Error(err)
		}
	}()
	if _, err := s.WaitPodReady(ctx, "default", name+"-"+s.NodeName); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "the static pod wrote", func() bool { return kubectlRun(ctx, t, "logs", name+"-"+s.NodeName) == "static\n" })
	if out := kubectlRun(ctx, t, "exec", name+"-"+s.NodeName, "--", "echo", "hi"); out != "hi\n" {
		t.Errorf("exec: %q", out)
	}
}

// TestKubectlAttach: what is typed reaches the container's own process.
func TestKubectlAttach(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.Containers = []corev1.Container{shell("app", "while read x; do echo got-$x; done; echo bye")}
	pod.Spec.Containers[0].Stdin, pod.Spec.Containers[0].StdinOnce = true, true
	pod = ready(ctx, t, pod)
	stdout, stderr, code := kubectlWith(ctx, t, strings.NewReader("one\ntwo\n"), "attach", "-i", pod.Name)
	if !strings.Contains(stdout, "got-one\ngot-two\n") {
		t.Errorf("attach: exit code %d, %q, %s", code, stdout, stderr)
	}
	phase(ctx, t, pod, corev1.PodSucceeded)
}

// TestKubectlPortForward: a pod's port on this side, for small answers and large ones.
func TestKubectlPortForward(t *testing.T) {
	ctx, s := node(t)
	pod := ready(ctx, t, newPod(t))
	get(ctx, t, "http://"+pod.Status.PodIP+":8080/")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := s.KubectlCommand(ctx, "port-forward", pod.Name, ":8080")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	line, err := bufio.NewReader(pipe).ReadString('\n')
	found := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	if err != nil || found == "" {
		t.Fatalf("kubectl port-forward says %q, %v", line, err)
	}
	base := "http://" + found
	for range 3 {
		if body, err := s.Get(ctx, base+"/"); err != nil || strings.TrimSpace(body) != pod.Name {
			t.Errorf("through the forwarded port: %q, %v", body, err)
		}
	}
	want, err := s.Get(ctx, "http://"+pod.Status.PodIP+":8080/file?path=/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if body, err := s.Get(ctx, base+"/file?path=/proc/self/exe"); err != nil || body != want {
		t.Errorf("a large file: %d bytes of %d, %v", len(body), len(want), err)
	}
}

// TestKubectlCopy: files into a container and back, byte for byte.
func TestKubectlCopy(t *testing.T) {
	ctx, _ := node(t)
	pod := ready(ctx, t, sleeper(t))
	dir := t.TempDir()
	data := random(t, 4<<20)
	if err := os.WriteFile(filepath.Join(dir, "in"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	kubectlRun(ctx, t, "cp", filepath.Join(dir, "in"), pod.Name+":/file")
	kubectlRun(ctx, t, "cp", pod.Name+":/file", filepath.Join(dir, "out"))
	if back := read(t, filepath.Join(dir, "out")); back != string(data) {
		t.Errorf("%d bytes of %d came back", len(back), len(data))
	}
}
