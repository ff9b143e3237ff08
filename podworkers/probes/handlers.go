package probes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"minikubelet/runtime/cri"
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

const maxOutput = 10 << 10 // bytes of an answer that are looked at

// try makes one probe.
func (w *worker) try(ctx context.Context, observed *cri.PodStatus) outcome {
	timeout := time.Duration(w.probe.TimeoutSeconds) * time.Second
	if timeout <= 0 {
		timeout = time.Second
	}
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
	ips := observed.IPs
	if w.pod.Spec.HostNetwork {
		ips = w.manager.opts.HostIPs()
	}
	if len(ips) == 0 {
		return ""
	}
	return ips[0]
}

func (w *worker) exec(ctx context.Context, timeout time.Duration) outcome {
	output, code, err := w.manager.opts.Exec(ctx, w.containerID, w.probe.Exec.Command, timeout)
	text := string(output[:min(len(output), maxOutput)])
	switch {
	case status.Code(err) == codes.DeadlineExceeded, errors.Is(err, context.DeadlineExceeded):
		return outcome{output: fmt.Sprintf("command timed out: %q timed out after %v", strings.Join(w.probe.Exec.Command, " "), timeout)}
	case err != nil:
		return outcome{err: err}
	case code != 0:
		return outcome{output: text}
	}
	return outcome{result: success, output: text}
}

// port is a number, or the name of one of the container's ports.
//
// Upstream: pkg/probe/util.go ResolveContainerPort.
func (w *worker) port(p intstr.IntOrString) (string, error) {
	n := p.IntValue()
	if p.Type == intstr.String {
		for i := range w.container.Ports {
			if w.container.Ports[i].Name == p.StrVal {
				n = int(w.container.Ports[i].ContainerPort)
			}
		}
	}
	if n < 1 || n > 65535 {
		return "", fmt.Errorf("invalid port: %s", p.String())
	}
	return strconv.Itoa(n), nil
}

func (w *worker) httpGet(ctx context.Context, host string, timeout time.Duration) outcome {
	request, err := w.httpRequest(ctx, w.probe.HTTPGet, host)
	if err != nil {
		return outcome{err: err}
	}
	client := http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			// The certificate is not verified, as upstream does not: a probe is about whether there is an answer.
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true, DisableCompression: true,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Hostname() != via[0].URL.Hostname() {
				return http.ErrUseLastResponse
			}
			if len(via) >= 10 {
				return errors.New("stopped after 10 redirects")
			}
			return nil
		},
	}
	answer, err := client.Do(request)
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

func (w *worker) httpRequest(ctx context.Context, get *corev1.HTTPGetAction, host string) (*http.Request, error) {
	port, err := w.port(get.Port)
	if err != nil {
		return nil, err
	}
	if get.Host != "" {
		host = get.Host
	}
	u, err := url.Parse(get.Path)
	if err != nil {
		u = &url.URL{Path: get.Path}
	}
	u.Scheme, u.Host = strings.ToLower(string(get.Scheme)), net.JoinHostPort(host, port)
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "kube-probe/1.37")
	request.Header.Set("Accept", "*/*")
	given := http.Header{}
	for _, h := range get.HTTPHeaders {
		given.Add(h.Name, h.Value)
	}
	for name, values := range given {
		request.Header[name] = values
		if name == "Host" {
			request.Host = values[0]
		}
		if len(values) == 1 && values[0] == "" && (name == "Accept" || name == "User-Agent") {
			request.Header.Del(name) // an empty value asks for no header
		}
	}
	return request, nil
}

func (w *worker) tcp(ctx context.Context, host string, timeout time.Duration) outcome {
	port, err := w.port(w.probe.TCPSocket.Port)
	if err != nil {
		return outcome{err: err}
	}
	if w.probe.TCPSocket.Host != "" {
		host = w.probe.TCPSocket.Host
	}
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", net.JoinHostPort(host, port))
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
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe/1.37"),
		grpc.WithNoProxy()) // the pod is reached from its node, whatever HTTPS_PROXY says
	if err != nil {
		return outcome{err: err}
	}
	defer conn.Close()
	service := ""
	if w.probe.GRPC.Service != nil {
		service = *w.probe.GRPC.Service
	}
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	switch {
	case status.Code(err) == codes.DeadlineExceeded:
		return outcome{output: fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)}
	case status.Code(err) == codes.Unimplemented:
		return outcome{output: fmt.Sprintf("this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())}
	case err != nil:
		return outcome{output: fmt.Sprintf("health rpc failed: %v", err)}
	case answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING:
		return outcome{output: fmt.Sprintf("service unhealthy (responded with %q)", answer.GetStatus())}
	}
	return outcome{result: success, output: "service healthy"}
}
