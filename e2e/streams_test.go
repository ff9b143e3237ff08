package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"
	clientspdy "k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"sigs.k8s.io/yaml"

	"minikubelet/e2e/stack"
)

// streamRounds is how often each kind of transfer is made. E2E_STREAM_ROUNDS sets it for longer runs.
func streamRounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv("E2E_STREAM_ROUNDS")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("E2E_STREAM_ROUNDS: %v", err)
	}
	return n
}

// busyMachine keeps every processor busy with other work than the streams' until the test ends.
func busyMachine(t *testing.T) {
	stop := make(chan struct{})
	var loops sync.WaitGroup
	for range 2 * runtime.NumCPU() {
		loops.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	t.Cleanup(func() { close(stop); loops.Wait() })
}

// streamPod is what the containers of a pod for large transfers have: one to run commands in that holds a port open
// which sends back what it gets, and one whose input comes back as its output.
func streamPod(name string) *corev1.Pod {
	pod := &corev1.Pod{}
	pod.Name, pod.Namespace = name, corev1.NamespaceDefault
	echo := shell("echo", "exec cat")
	echo.Stdin, echo.StdinOnce = true, true
	pod.Spec.Containers = []corev1.Container{shell("app", "while :; do nc -l -p 9000 -e cat; done"), echo}
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	pod.Spec.TerminationGracePeriodSeconds = new(int64(1))
	return pod
}

// streamClient talks to the node's server itself, and pings all the time.
type streamClient struct {
	http *http.Client
	base string
	pod  string
}

func (c *streamClient) tripper(t *testing.T) *spdy.SpdyRoundTripper {
	t.Helper()
	tripper, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{UpgradeTransport: c.http.Transport, PingPeriod: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return tripper
}

// run connects with a container's streams.
func (c *streamClient) run(ctx context.Context, t *testing.T, path string, stdin io.Reader) ([]byte, error) {
	t.Helper()
	query := "output=1&error=1"
	if stdin != nil {
		query += "&input=1"
	}
	target, err := url.Parse(c.base + path + query)
	if err != nil {
		t.Fatal(err)
	}
	tripper := c.tripper(t)
	executor, err := remotecommand.NewSPDYExecutorForTransports(tripper, clientspdy.NewUpgraderForStreaming(tripper), http.MethodPost, target)
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return stdout.Bytes(), err
}

func (c *streamClient) exec(ctx context.Context, t *testing.T, stdin io.Reader, command ...string) ([]byte, error) {
	t.Helper()
	return c.run(ctx, t, "/exec/default/"+c.pod+"/app?"+url.Values{"command": command}.Encode()+"&", stdin)
}

// forward sends data to a port of the pod and returns what comes back.
func (c *streamClient) forward(ctx context.Context, t *testing.T, data []byte) ([]byte, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/portForward/default/"+c.pod, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	tripper := c.tripper(t)
	conn, _, err := clientspdy.NegotiateStreaming(clientspdy.NewUpgraderForStreaming(tripper), &http.Client{Transport: tripper}, request, "portforward.k8s.io")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var streams []httpstream.Stream
	for _, kind := range []string{corev1.StreamTypeError, corev1.StreamTypeData} {
		stream, err := conn.CreateStream(http.Header{corev1.StreamType: {kind}, corev1.PortHeader: {"9000"}, corev1.PortForwardRequestIDHeader: {"0"}})
		if err != nil {
			return nil, err
		}
		streams = append(streams, stream)
	}
	_ = streams[0].Close()
	go func() {
		_, _ = io.Copy(streams[1], struct{ io.Reader }{bytes.NewReader(data)})
		_ = streams[1].Close()
	}()
	back, err := io.ReadAll(streams[1])
	if problem, _ := io.ReadAll(streams[0]); len(problem) > 0 {
		err = errors.Join(err, errors.New(string(problem)))
	}
	return back, err
}

func checksum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// exitOutput is what a program that failed wrote to stderr.
func exitOutput(err error) []byte {
	if exit, ended := errors.AsType[*exec.ExitError](err); ended {
		return exit.Stderr
	}
	return nil
}

// wholeStreams moves data in all the ways there are, and compares sums.
func wholeStreams(ctx context.Context, t *testing.T, c *streamClient) {
	t.Helper()
	data := random(t, 16<<20)
	want := checksum(data)
	same := func(what string, got []byte, err error) {
		t.Helper()
		if err != nil || checksum(got) != want {
			t.Errorf("%s: %d of %d bytes, %v", what, len(got), len(data), err)
		}
	}
	got, err := c.exec(ctx, t, bytes.NewReader(data), "sh", "-c", "cat >/data; sha256sum </data")
	if err != nil || !strings.HasPrefix(string(got), want) {
		t.Fatalf("exec, in: %q, %v; want %s", got, err, want)
	}
	busyMachine(t)
	for round := range streamRounds(t) {
		got, err := c.exec(ctx, t, nil, "cat", "/data")
		same(fmt.Sprint("exec, out, round ", round), got, err)
		got, err = c.exec(ctx, t, bytes.NewReader(data), "cat")
		same(fmt.Sprint("exec, both ways, round ", round), got, err)
		got, err = c.forward(ctx, t, data)
		same(fmt.Sprint("port-forward, round ", round), got, err)
	}
	got, err = c.run(ctx, t, "/attach/default/"+c.pod+"/echo?", bytes.NewReader(data[:4<<20]))
	if err != nil || checksum(got) != checksum(data[:4<<20]) {
		t.Errorf("attach, both ways: %d of %d bytes, %v", len(got), 4<<20, err)
	}
}

// TestWholeStreams: what is sent arrives, every byte of it, on a busy machine and with a client that pings meanwhile.
func TestWholeStreams(t *testing.T) {
	t.Run("cluster", func(t *testing.T) {
		ctx, s := node(t)
		pod := streamPod(podName(t))
		pod.Spec.NodeName = s.NodeName
		ready(ctx, t, pod)
		wholeStreams(ctx, t, &streamClient{http: kubeletClient(t, "admin", "system:masters"), base: s.KubeletURL(), pod: pod.Name})
		want := kubectlRun(ctx, t, "exec", pod.Name, "-c=app", "--", "sha256sum", "/data")
		for round := range streamRounds(t) {
			for _, webSocket := range []string{"false", "true"} {
				cmd := s.KubectlCommand(ctx, "exec", pod.Name, "-c=app", "--", "cat", "/data")
				cmd.Env = append(os.Environ(), "KUBECTL_REMOTE_COMMAND_WEBSOCKETS="+webSocket)
				out, err := cmd.Output()
				if err != nil && webSocket == "true" && bytes.Contains(exitOutput(err), []byte("connection reset by peer")) {
					continue // the apiserver translates, and ends the client's connection itself
				}
				if err != nil || !strings.HasPrefix(want, checksum(out)) {
					t.Errorf("kubectl exec, WebSocket %s, round %d: %d bytes came, not the right ones: %v, %s", webSocket, round, len(out), err, exitOutput(err))
				}
			}
		}
	})
	t.Run(stack.Embedded, func(t *testing.T) {
		ctx, s := embeddedStack(t)
		pod := streamPod("streams")
		pod.APIVersion, pod.Kind = "v1", "Pod"
		text, err := yaml.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(s.ManifestDir(), "pod.yaml"), string(text))
		k := embeddedKubelet(t, s)
		running := standalone(ctx, t, s, "the pod is ready", isReady)
		client, err := s.KubeletClient("admin", "system:masters")
		if err != nil {
			t.Fatal(err)
		}
		client.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true // it listens on the loopback interface
		wholeStreams(ctx, t, &streamClient{http: client, base: "https://127.0.0.1:10250", pod: running.Name})
		removeFile(t, filepath.Join(s.ManifestDir(), "pod.yaml"))
		eventually(ctx, t, "the pod is gone", func() bool { return criNames(ctx, t, s) == "crid" })
		if err := k.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}
	})
}

// TestStreamsEndWithClient: of a terminal's command, an attached container that says nothing and a forwarded port whose
// server does not, nothing stays when the client goes.
func TestStreamsEndWithClient(t *testing.T) {
	c := crid(t)
	p := c.run(t, c.sandboxConfig(t))
	id := p.start(t, script("quiet", "nc -lk -p 9000 -e sleep 1000 & sleep 1000"))
	pid := c.s.Component(stack.Crid).Pid()
	open := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	sleepers := func() int {
		out, err := c.ExecSync(limited(t), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "ps | grep -c '[s]leep 4321'"}})
		if err != nil {
			t.Fatal(err)
		}
		n, _ := strconv.Atoi(strings.TrimSpace(string(out.GetStdout())))
		return n
	}
	before := open()
	exec, err := c.Exec(limited(t), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"sleep", "4321"}, Stdin: true, Stdout: true, Tty: true})
	if err != nil {
		t.Fatal(err)
	}
	attach, err := c.Attach(limited(t), &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	forward, err := c.PortForward(limited(t), &runtimeapi.PortForwardRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatal(err)
	}
	problem, data := corev1.StreamTypeError, corev1.StreamTypeData
	var conns []httpstream.Connection
	for _, s := range []struct {
		url, protocol string
		kinds         []string
	}{
		{exec.GetUrl(), "v4.channel.k8s.io", []string{problem, corev1.StreamTypeStdin, corev1.StreamTypeStdout, corev1.StreamTypeResize}},
		{attach.GetUrl(), "v4.channel.k8s.io", []string{problem, corev1.StreamTypeStdout}},
		{forward.GetUrl(), "portforward.k8s.io", []string{problem, data}},
	} {
		tripper, err := spdy.NewRoundTripper(nil)
		if err != nil {
			t.Fatal(err)
		}
		request, err := http.NewRequestWithContext(limited(t), http.MethodPost, c.reach(t, s.url).String(), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		conn, _, err := clientspdy.NegotiateStreaming(clientspdy.NewUpgraderForStreaming(tripper), &http.Client{Transport: tripper}, request, s.protocol)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		for _, kind := range s.kinds {
			if _, err := conn.CreateStream(http.Header{corev1.StreamType: {kind}, corev1.PortHeader: {"9000"}, corev1.PortForwardRequestIDHeader: {"0"}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(limited(t), t, "all three streams run", func() bool { return sleepers() == 1 && open() >= before+5 })
	for _, conn := range conns {
		_ = conn.Close()
	}
	eventually(limited(t), t, "the command with the terminal has ended", func() bool { return sleepers() == 0 })
	eventually(limited(t), t, "no descriptor is left", func() bool { return open() <= before })
}
