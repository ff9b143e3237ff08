package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

const (
	dialTimeout = 10 * time.Second
	// runTimeout ends a command of /run, which has no terminal whose end would stop it.
	runTimeout = 10 * time.Minute
)

// getExec starts a command in a container and connects the client with it.
//
// Upstream: pkg/kubelet/server/server.go getExec
func (s *Server) getExec(w http.ResponseWriter, r *http.Request) error {
	return s.stream(w, r, func(container string, o streams) (string, error) {
		answer, err := s.options.CRI.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{
			ContainerId: container, Cmd: r.URL.Query()["command"], Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr, Tty: o.tty,
		})
		return answer.GetUrl(), err
	})
}

// getAttach connects the client with what a container was started with.
func (s *Server) getAttach(w http.ResponseWriter, r *http.Request) error {
	return s.stream(w, r, func(container string, o streams) (string, error) {
		answer, err := s.options.CRI.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{
			ContainerId: container, Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr, Tty: o.tty,
		})
		return answer.GetUrl(), err
	})
}

// stream connects the client with streams of a container, which the runtime is asked for.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, ask func(container string, o streams) (url string, err error)) error {
	options, err := streamOptions(r.URL.Query())
	if err != nil {
		return err
	}
	container, err := s.runningContainer(r)
	if err != nil {
		return err
	}
	location, err := ask(container.ID, options)
	if err != nil {
		return fmt.Errorf("ask the runtime for a container's streams: %w", err)
	}
	return s.connect(w, r, location)
}

// getPortForward connects the client with ports in the pod's network.
func (s *Server) getPortForward(w http.ResponseWriter, r *http.Request) error {
	ports, err := forwardedPorts(r)
	if err != nil {
		return err
	}
	pod, err := s.pod(r)
	if err != nil {
		return err
	}
	observed, _ := s.options.Observed(pod.UID)
	sandbox := observed.ReadySandbox()
	if sandbox == nil {
		return notFound("pod %q is not running", pod.Name)
	}
	answer, err := s.options.CRI.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: sandbox.Id, Port: ports})
	if err != nil {
		return fmt.Errorf("ask the runtime to forward ports: %w", err)
	}
	return s.connect(w, r, answer.Url)
}

// getRun runs a command without input and answers with what it wrote.
func (s *Server) getRun(w http.ResponseWriter, r *http.Request) error {
	command := strings.Fields(r.URL.Query().Get("cmd"))
	if len(command) == 0 {
		return badRequest("query parameter cmd is required")
	}
	container, err := s.runningContainer(r)
	if err != nil {
		return err
	}
	answer, err := s.options.CRI.Runtime.ExecSync(r.Context(), &runtimeapi.ExecSyncRequest{
		ContainerId: container.ID, Cmd: command, Timeout: int64(runTimeout.Seconds()),
	})
	if err != nil {
		return fmt.Errorf("run a command: %w", err)
	}
	output := append(answer.Stdout, answer.Stderr...)
	if answer.ExitCode != 0 {
		return fmt.Errorf("command %q exited with %d: %s", command, answer.ExitCode, output)
	}
	w.Header().Set("Content-Type", "application/json") // which it is not; clients know it as that
	_, err = w.Write(output)
	return err
}

// runningContainer is the container that the path names, if it runs.
func (s *Server) runningContainer(r *http.Request) (*cri.ContainerStatus, error) {
	pod, err := s.pod(r)
	if err != nil {
		return nil, err
	}
	name := r.PathValue("container")
	if podinfo.Container(pod, name) == nil {
		return nil, notFound("container not found (%q)", name)
	}
	observed, _ := s.options.Observed(pod.UID)
	container := observed.Container(name)
	if container == nil || container.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, notFound("container %q of pod %q is not running", name, pod.Name)
	}
	return container, nil
}

// streams say which of a command's streams are wanted.
type streams struct{ stdin, stdout, stderr, tty bool }

// streamOptions reads the query of exec and attach. A terminal has no error stream of its own.
func streamOptions(query url.Values) (streams, error) {
	on := func(name string) bool { return query.Get(name) == yes }
	o := streams{
		stdin: on(corev1.ExecStdinParam), stdout: on(corev1.ExecStdoutParam),
		stderr: on(corev1.ExecStderrParam), tty: on(corev1.ExecTTYParam),
	}
	if o.tty {
		o.stderr = false
	}
	if !o.stdin && !o.stdout && !o.stderr {
		return o, badRequest("you must specify at least 1 of stdin, stdout, stderr")
	}
	return o, nil
}

// yes is how clients write true in these queries.
const yes = "1"

// forwardedPorts reads the ports of a WebSocket's query; SPDY names them later, with each stream.
func forwardedPorts(r *http.Request) ([]int32, error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return nil, nil
	}
	given := r.URL.Query()["port"]
	if len(given) == 0 {
		return nil, badRequest("query parameter port is required")
	}
	var ports []int32
	for text := range strings.SplitSeq(strings.Join(given, ","), ",") {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return nil, badRequest("query parameter port: %q is not a port", text)
		}
		ports = append(ports, int32(port))
	}
	return ports, nil
}

// connect joins the client's connection to the runtime's streaming server until both have said all, nothing at all
// passes for streamingConnectionIdleTimeout, or the kubelet stops.
func (s *Server) connect(w http.ResponseWriter, r *http.Request, location string) error {
	target, err := url.Parse(location)
	if err != nil || target.Host == "" {
		return fmt.Errorf("the runtime's answer is not a URL: %q", location)
	}
	if !httpstream.IsUpgradeRequest(r) {
		return badRequest("Upgrade request required")
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	runtime, err := proxy.DialURL(r.Context(), target, &http.Transport{DialContext: dialer.DialContext})
	if err != nil {
		return fmt.Errorf("connect to the container runtime: %w", err)
	}
	defer runtime.Close()
	from, answer, err := upgrade(r, target, runtime)
	if err != nil {
		return fmt.Errorf("connect to the container runtime: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return refused(answer)
	}
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take over the connection: %w", err)
	}
	defer client.Close()
	answer.Body = nil
	if err := answer.Write(client); err != nil {
		return nil // the client has gone
	}
	relay := newRelay(client, &readAhead{runtime, from}, protocolOf(answer.Header), s.idleTimeout())
	stop := context.AfterFunc(s.stopped, relay.close)
	defer stop()
	relay.run(buffered)
	return nil
}

// upgrade sends the client's request on to the runtime, without the client's credentials, and returns the answer and
// where to read what follows it.
func upgrade(r *http.Request, target *url.URL, runtime net.Conn) (*bufio.Reader, *http.Response, error) {
	stop := context.AfterFunc(r.Context(), func() { _ = runtime.Close() })
	defer stop()
	request := r.Clone(r.Context())
	request.URL, request.Host, request.Body, request.ContentLength = target, target.Host, http.NoBody, 0
	for _, secret := range []string{"Authorization", "Cookie"} {
		request.Header.Del(secret)
	}
	utilnet.AppendForwardedForHeader(request)
	if err := request.Write(runtime); err != nil {
		return nil, nil, err
	}
	from := bufio.NewReader(runtime)
	answer, err := http.ReadResponse(from, request)
	return from, answer, err
}

// refused is the error with which the runtime does not open the stream.
func refused(answer *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxRefusal))
	if err != nil {
		return fmt.Errorf("read the container runtime's answer: %w", err)
	}
	if answer.StatusCode < http.StatusBadRequest {
		return fmt.Errorf("the container runtime's answer has status %s", answer.Status)
	}
	return &httpError{answer.StatusCode, strings.TrimSuffix(string(text), "\n")}
}

// maxRefusal bounds what a runtime may say for not opening a stream.
const maxRefusal = 64 << 10

// readAhead is a connection of which some bytes were read into a buffer.
type readAhead struct {
	net.Conn
	from *bufio.Reader
}

// Read implements net.Conn.
func (c *readAhead) Read(p []byte) (int, error) { return c.from.Read(p) }

// CloseWrite passes on that nothing more will be written.
func (c *readAhead) CloseWrite() error { return closeWrite(c.Conn) }
