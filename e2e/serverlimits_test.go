package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/e2e/stack"
)

// TestServerOnRequest: the read-only port, profiles and the verbosity are there for who asks for them in the configuration, and
// without any certificate to show the server makes its own.
func TestServerOnRequest(t *testing.T) {
	ctx, s := nodeWith(t, stack.KubeletOptions{Config: map[string]any{
		"readOnlyPort": 10255, "enableProfilingHandler": true, "enableDebugFlagsHandler": true, "tlsCertFile": nil, "tlsPrivateKeyFile": nil,
	}})
	pod := newPod(t)
	pod.Spec.Containers = sleeper(t).Spec.Containers
	ready(ctx, t, pod)
	for path, want := range map[string]int{
		"/healthz": 200, "/healthz/syncloop": 200, "/pods": 200, "/metrics": 200, "/metrics/cadvisor": 200, "/metrics/probes": 200, "/metrics/resource": 200, "/stats/summary": 200,
		"/containerLogs/default/" + pod.Name + "/app": 404, "/exec/default/" + pod.Name + "/app?command=id&output=1": 404, "/run/default/" + pod.Name + "/app?cmd=id": 404,
		"/runningpods/": 404, "/configz": 404, "/flagz": 404, "/statusz": 404, "/logs/": 404, "/debug/pprof/": 404, "/checkpoint/default/" + pod.Name + "/app": 404,
	} {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+stack.NodeIP+":10255"+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := s.HTTP.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("on the read-only port %s: %d, want %d", path, answer.StatusCode, want)
		}
	}
	if _, stderr, code := kubectlWith(ctx, t, nil, "logs", pod.Name); code == 0 || !strings.Contains(stderr, "certificate signed by unknown authority") {
		t.Errorf("kubectl logs from a server that nobody vouches for: exit code %d, %s", code, stderr)
	}
	kubectlRun(ctx, t, "logs", "--insecure-skip-tls-verify-backend", pod.Name)
	modes(t, filepath.Join(s.RootDir(), "pki", "kubelet.key"), filepath.Join(s.RootDir(), "pki", "kubelet.crt"))
	admin := kubeletClient(t, "admin", "system:masters")
	admin.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true
	if code, body := askKubelet(ctx, t, admin, "", "GET /debug/pprof/goroutine?debug=1"); code != http.StatusOK || !strings.Contains(body, "goroutine profile") {
		t.Errorf("/debug/pprof/goroutine: %d %.200s", code, body)
	}
	for verbosity, want := range map[string]int{"4": http.StatusOK, "very": http.StatusBadRequest} {
		r, err := http.NewRequestWithContext(ctx, http.MethodPut, s.KubeletURL()+"/debug/flags/v", strings.NewReader(verbosity))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := admin.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("verbosity %s: %d", verbosity, answer.StatusCode)
		}
	}
}

// TestSlowClients: who begins and does not go on loses the connection, and meanwhile others are answered.
func TestSlowClients(t *testing.T) {
	ctx, s := nodeWith(t, stack.KubeletOptions{Config: map[string]any{"streamingConnectionIdleTimeout": "5s", "containerLogMaxSize": "100Mi"}})
	pod := sleeper(t)
	pod.Spec.Containers = append(pod.Spec.Containers, shell("big", "yes 0123456789012345678901234567890123456789 | head -n 500000; echo end; sleep 1000"))
	ready(ctx, t, pod)
	eventually(ctx, t, "all of the big log is there", func() bool {
		return kubectlRun(ctx, t, "logs", pod.Name, "-c=big", "--tail=1") == "end\n"
	})
	admin := kubeletClient(t, "admin", "system:masters")
	config := admin.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = stack.NodeIP
	ends := map[string]chan error{}
	rest := make(chan struct{}) // closed when the clients that are given the longest time have lost their connections
	for what, begun := range map[string]string{
		"says nothing":          "",
		"half a request":        "GET /pods HTTP/1.1\r\nHost: node\r\nX-Part: ",
		"half a body":           "PUT /debug/flags/v HTTP/1.1\r\nHost: node\r\nContent-Length: 100\r\n\r\n4",
		"a body without an end": "POST /run/default/" + pod.Name + "/app?cmd=true HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n4\r\n",
		"takes no log":          "GET /containerLogs/default/" + pod.Name + "/big HTTP/1.1\r\nHost: node\r\n\r\n",
		"an idle command":       "POST /exec/default/" + pod.Name + "/app?command=sleep&command=600&output=1 HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n",
		"an idle port":          "POST /portForward/default/" + pod.Name + " HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n",
	} {
		raw, err := s.DialContext(ctx, "tcp", stack.NodeIP+":10250")
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		end := make(chan error, 1)
		ends[what] = end
		go func() {
			if what == "takes no log" {
				end <- reluctant(ctx, raw, config, begun, rest)
			} else {
				end <- slow(ctx, raw, config, begun)
			}
		}()
	}
	for range 20 {
		if code, body := askKubelet(ctx, t, admin, "", "GET /pods"); code != http.StatusOK {
			t.Errorf("meanwhile, /pods: %d %.200s", code, body)
		}
	}
	if out := kubectlRun(ctx, t, "exec", pod.Name, "--", "echo", "meanwhile"); out != "meanwhile\n" {
		t.Errorf("meanwhile, a command: %q", out)
	}
	last := ends["takes no log"]
	delete(ends, "takes no log")
	for what, end := range ends {
		if err := <-end; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	close(rest)
	if err := <-last; err != nil {
		t.Errorf("takes no log: %v", err)
	}
}

// slow sends the beginning of something and returns nil when the server has ended the connection for it.
func slow(ctx context.Context, raw net.Conn, config *tls.Config, begun string) error {
	deadline, _ := ctx.Deadline()
	if err := raw.SetDeadline(deadline); err != nil {
		return err
	}
	var conn io.ReadWriter = raw
	if begun != "" {
		secure := tls.Client(raw, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return err
		}
		conn = secure
		if _, err := io.WriteString(conn, begun); err != nil {
			return err
		}
	}
	if read, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the server waits for it: %d bytes", read)
	}
	return nil
}

// reluctant asks for something big, takes none of it until rest is closed, and returns nil if it was cut off then.
func reluctant(ctx context.Context, raw net.Conn, config *tls.Config, request string, rest <-chan struct{}) error {
	deadline, _ := ctx.Deadline()
	if err := raw.SetDeadline(deadline); err != nil {
		return err
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	from := bufio.NewReader(conn)
	answer, err := http.ReadResponse(from, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	<-rest
	read, err := io.Copy(io.Discard, answer.Body)
	if err == nil {
		return fmt.Errorf("it got all of its log: %d bytes", read)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the server waits for it: %d bytes", read)
	}
	return nil
}

// TestLogLink: what takes the place of a log and leads elsewhere is not shown.
func TestLogLink(t *testing.T) {
	ctx, s := node(t)
	pod := newPod(t)
	pod.Spec.Containers = []corev1.Container{shell("app", "echo mine; sleep 1000")}
	pod = ready(ctx, t, pod)
	eventually(ctx, t, "the container wrote", func() bool { return kubectlRun(ctx, t, "logs", pod.Name) == "mine\n" })
	path := fmt.Sprintf("%s/%s_%s_%s/app/0.log", s.PodLogsDir(), pod.Namespace, pod.Name, pod.UID)
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, "2026-01-01T00:00:00Z stdout F secret\n")
	if err := errors.Join(os.Rename(path, path+".kept"), os.Symlink(secret, path)); err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, code := kubectlWith(ctx, t, nil, "logs", pod.Name); code == 0 || stdout != "" || !strings.Contains(stderr, "path escapes from parent") {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
	if err := os.Rename(path+".kept", path); err != nil {
		t.Fatal(err)
	}
	if out := kubectlRun(ctx, t, "logs", pod.Name); out != "mine\n" {
		t.Errorf("when the log is back: %q", out)
	}
}
