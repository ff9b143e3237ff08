package runtime

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

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
	"minikubelet/runtime/spec"
)

const (
	maxHookBody  = 10 << 10 // bytes of a response that are read, to reuse the connection
	maxRedirects = 10
	hookTimeout  = 2 * time.Minute // an HTTP hook without an answer
)

// hookClient calls HTTP hooks. They are the pod's own, so its certificate proves nothing; redirects to another host
// are not followed, or a pod could make the node call anything.
var hookClient = &http.Client{
	Timeout: hookTimeout,
	Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	},
	CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if req.URL.Hostname() != via[0].URL.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= maxRedirects {
			return fmt.Errorf("stopped after %d redirects", maxRedirects)
		}
		return nil
	},
}

// runHook runs a postStart or preStop hook and returns, with an error, the message for the container's status.
//
// Upstream: pkg/kubelet/lifecycle/handlers.go Run
func (r *Runtime) runHook(ctx context.Context, pod *corev1.Pod, container *corev1.Container, id string, podIPs []string, hook *corev1.LifecycleHandler) (string, error) {
	switch {
	case hook.Exec != nil:
		output, code, err := r.ExecInContainer(ctx, id, hook.Exec.Command, 0)
		if err == nil && code != 0 {
			err = fmt.Errorf("command '%s' exited with %d", strings.Join(hook.Exec.Command, " "), code)
		}
		if err != nil {
			return fmt.Sprintf("Exec lifecycle hook (%v) for Container %q in Pod %q failed - error: %v, message: %q",
				hook.Exec.Command, container.Name, spec.ReferenceName(pod), err, output), err
		}
	case hook.HTTPGet != nil:
		if err := r.httpHook(ctx, pod, container, podIPs, hook.HTTPGet); err != nil {
			return fmt.Sprintf("HTTP lifecycle hook (%s) for Container %q in Pod %q failed - error: %v",
				hook.HTTPGet.Path, container.Name, spec.ReferenceName(pod), err), err
		}
	case hook.Sleep != nil:
		if err := r.sleepHook(ctx, cri.Seconds(hook.Sleep.Seconds)); err != nil {
			return fmt.Sprintf("Sleep lifecycle hook (%d) for Container %q in Pod %q failed - error: %v",
				hook.Sleep.Seconds, container.Name, spec.ReferenceName(pod), err), err
		}
	default:
		// tcpSocket is in the API for compatibility alone and fails at run time.
		err := fmt.Errorf("invalid handler: %v", hook)
		return fmt.Sprintf("Cannot run handler: %v", err), err
	}
	return "", nil
}

func (r *Runtime) sleepHook(ctx context.Context, d time.Duration) error {
	timer := r.opts.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-ctx.Done():
		r.metrics.sleepsCut.Inc()
		return errors.New("container terminated before sleep hook finished")
	}
}

// httpHook counts any response as success, as upstream does.
func (r *Runtime) httpHook(ctx context.Context, pod *corev1.Pod, container *corev1.Container, podIPs []string, get *corev1.HTTPGetAction) error {
	request, err := hookRequest(ctx, container, podIPs, get)
	if err != nil {
		return err
	}
	err = doHook(request)
	var of *url.Error
	if errors.As(err, &of) && strings.Contains(of.Err.Error(), "server gave HTTP response to HTTPS client") {
		request = request.Clone(ctx)
		request.URL.Scheme = "http"
		request.Header.Del("Authorization") // it was meant for an encrypted connection
		if doHook(request) == nil {
			r.metrics.httpFallbacks.Inc()
			r.podEvent(pod, corev1.EventTypeWarning, eventLifecycleHTTPFallback,
				"request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", request.URL.Host)
			return nil
		}
	}
	return err
}

func doHook(request *http.Request) error {
	response, err := hookClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, maxHookBody) // the answer is in the header
	return nil
}

func hookRequest(ctx context.Context, container *corev1.Container, podIPs []string, get *corev1.HTTPGetAction) (*http.Request, error) {
	host := get.Host
	if host == "" {
		if len(podIPs) == 0 {
			return nil, errors.New("failed to find networking container: the pod has no address of its own, set httpGet.host")
		}
		host = podIPs[0]
	}
	port, err := hookPort(get.Port, container)
	if err != nil {
		return nil, err
	}
	target, err := url.Parse(get.Path)
	if err != nil {
		target = &url.URL{Path: get.Path}
	}
	target.Scheme = "http"
	if get.Scheme == corev1.URISchemeHTTPS {
		target.Scheme = "https"
	}
	target.Host = net.JoinHostPort(host, strconv.Itoa(port))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, header := range get.HTTPHeaders {
		request.Header.Add(header.Name, header.Value)
	}
	if request.Header.Get("User-Agent") == "" {
		request.Header.Set("User-Agent", "kube-lifecycle/1.36")
	}
	if _, set := request.Header["Accept"]; !set {
		request.Header.Set("Accept", "*/*")
	} else if request.Header.Get("Accept") == "" {
		request.Header.Del("Accept") // set to nothing: not wanted at all
	}
	request.Host = request.Header.Get("Host")
	return request, nil
}

func hookPort(port intstr.IntOrString, container *corev1.Container) (int, error) {
	number := port.IntValue()
	if port.Type == intstr.String && number == 0 {
		for _, p := range container.Ports {
			if p.Name == port.StrVal {
				number = int(p.ContainerPort)
			}
		}
	}
	if number < 1 || number > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", port.String())
	}
	return number, nil
}

// ExecInContainer runs a command in a container and returns its standard output followed by its standard error. A
// timeout of 0 is none beyond the context's. An exit code other than 0 is not an error.
func (r *Runtime) ExecInContainer(ctx context.Context, containerID string, command []string, timeout time.Duration) (output []byte, exitCode int, err error) {
	response, err := r.opts.CRI.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{
		ContainerId: containerID, Cmd: command, Timeout: int64((timeout + time.Second - 1) / time.Second),
	})
	if err != nil {
		return nil, 0, err
	}
	return append(response.GetStdout(), response.GetStderr()...), int(response.GetExitCode()), nil
}
