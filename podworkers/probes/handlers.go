package probes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"k8s.io/utils/ptr"

	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers/env"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/httpget"
)

type result int

const (
	failure result = iota
	success
	warning
)

// outcome is one probe's.
type outcome struct {
	result result
	output string
	err    error // why the probe could not be made
}

const (
	maxOutput = 10 << 10 // bytes of an answer that are looked at
	userAgent = "kube-probe/1.37"
)

// try makes one probe.
func (w *worker) try(ctx context.Context, observed *cri.PodStatus) outcome {
	timeout := max(time.Duration(w.probe.TimeoutSeconds)*time.Second, time.Second)
	host := w.host(observed)
	switch {
	case w.probe.Exec != nil:
		return w.exec(ctx, timeout)
	case w.probe.HTTPGet != nil:
		return w.httpGet(ctx, host, timeout)
	case w.probe.TCPSocket != nil:
		return w.tcp(ctx, host, timeout)
	case w.probe.GRPC != nil:
		return w.grpc(ctx, host, timeout)
	}
	return outcome{err: errors.New("missing probe handler")}
}

// host is the pod's address, or the node's for a pod on its network.
func (w *worker) host(observed *cri.PodStatus) string {
	hosts := w.manager.opts.HostIPs()
	if w.pod.Spec.HostNetwork {
		return cmp.Or(hosts...)
	}
	return cmp.Or(podinfo.SortIPs(observed.IPs, hosts)...)
}

func (w *worker) exec(ctx context.Context, timeout time.Duration) outcome {
	// As upstream, of the container's variables those count that the pod gives a value.
	vars := map[string]string{}
	for i := range w.container.Env {
		vars[w.container.Env[i].Name] = w.container.Env[i].Value
	}
	command := env.ExpandAll(w.probe.Exec.Command, vars)
	output, code, err := w.manager.opts.Exec(ctx, w.containerID, command, timeout)
	text := string(output[:min(len(output), maxOutput)])
	switch {
	case status.Code(err) == codes.DeadlineExceeded, errors.Is(err, context.DeadlineExceeded):
		return outcome{output: fmt.Sprintf("command timed out: %q timed out after %v", strings.Join(command, " "), timeout)}
	case err != nil:
		return outcome{err: err}
	case code != 0:
		return outcome{output: text}
	}
	return outcome{result: success, output: text}
}

func (w *worker) httpGet(ctx context.Context, host string, timeout time.Duration) outcome {
	request, err := httpget.Request(ctx, w.container, w.probe.HTTPGet, host, userAgent)
	if err != nil {
		return outcome{err: err}
	}
	answer, err := httpget.Client(timeout).Do(request)
	if err != nil {
		return outcome{output: err.Error()}
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxOutput))
	switch {
	case err != nil:
		return outcome{output: err.Error()}
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		return outcome{result: warning, output: fmt.Sprintf("Probe terminated redirects, Response body: %s", body)}
	case answer.StatusCode < 200 || answer.StatusCode >= 400:
		return outcome{output: fmt.Sprintf("HTTP probe failed with statuscode: %d", answer.StatusCode)}
	}
	return outcome{result: success, output: string(body)}
}

func (w *worker) tcp(ctx context.Context, host string, timeout time.Duration) outcome {
	port, err := httpget.Port(w.container, w.probe.TCPSocket.Port)
	if err != nil {
		return outcome{err: err}
	}
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", net.JoinHostPort(cmp.Or(w.probe.TCPSocket.Host, host), port))
	if err != nil {
		return outcome{output: err.Error()}
	}
	_ = conn.Close() // the connection was all that was asked
	return outcome{result: success}
}

func (w *worker) grpc(ctx context.Context, host string, timeout time.Duration) outcome {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	address := net.JoinHostPort(host, strconv.Itoa(int(w.probe.GRPC.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(userAgent),
		grpc.WithNoProxy()) // the pod is reached from its node, whatever HTTPS_PROXY says
	if err != nil {
		return outcome{err: err}
	}
	defer conn.Close()
	// A server that begins to listen before the time is over is waited for.
	request := &grpc_health_v1.HealthCheckRequest{Service: ptr.Deref(w.probe.GRPC.Service, "")}
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, request, grpc.WaitForReady(true))
	connected := conn.GetState() == connectivity.Ready
	switch code := status.Code(err); {
	case code == codes.DeadlineExceeded && !connected:
		return outcome{output: fmt.Sprintf("timeout: failed to connect service %q within %v: %v", address, timeout, context.DeadlineExceeded)}
	case code == codes.DeadlineExceeded:
		return outcome{output: fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)}
	case code == codes.Unimplemented:
		return outcome{output: fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())}
	case err != nil:
		return outcome{output: fmt.Sprintf("error: health rpc probe failed: %v", err)}
	case answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING:
		return outcome{output: fmt.Sprintf("service unhealthy (responded with %q)", answer.GetStatus())}
	}
	return outcome{result: success, output: "service healthy"}
}
