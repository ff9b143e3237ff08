package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
	"minikubelet/runtime/httpget"
	"minikubelet/runtime/spec"
)

const (
	maxHookBody = 10 << 10        // bytes of a response that are read
	hookTimeout = 2 * time.Minute // an HTTP hook without an answer
)

var hookClient = httpget.Client(hookTimeout)

// runHook runs a postStart or preStop hook and returns, with an error, the message for the container's status.
//
// Upstream: pkg/kubelet/lifecycle/handlers.go Run
func (r *Runtime) runHook(ctx context.Context, pod *corev1.Pod, container *corev1.Container, id string, podIPs []string, hook *corev1.LifecycleHandler) (message string, err error) {
	var what, output string
	switch {
	case hook.Exec != nil:
		what = fmt.Sprintf("Exec lifecycle hook (%v)", hook.Exec.Command)
		out, code, execErr := r.ExecInContainer(ctx, id, hook.Exec.Command, 0)
		if err = execErr; err == nil && code != 0 {
			err = fmt.Errorf("command '%s' exited with %d", strings.Join(hook.Exec.Command, " "), code)
		}
		output = fmt.Sprintf(", message: %q", out)
	case hook.HTTPGet != nil:
		what = fmt.Sprintf("HTTP lifecycle hook (%s)", hook.HTTPGet.Path)
		err = r.httpHook(ctx, pod, container, podIPs, hook.HTTPGet)
	case hook.Sleep != nil:
		what = fmt.Sprintf("Sleep lifecycle hook (%d)", hook.Sleep.Seconds)
		err = sleepHook(ctx, cri.Seconds(hook.Sleep.Seconds))
	default:
		// tcpSocket is in the API for compatibility alone and fails at run time.
		err := fmt.Errorf("invalid handler: %v", hook)
		return fmt.Sprintf("Cannot run handler: %v", err), err
	}
	if err == nil {
		return "", nil
	}
	return fmt.Sprintf("%s for Container %q in Pod %q failed - error: %v%s", what, container.Name, spec.ReferenceName(pod), err, output), err
}

func sleepHook(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return errors.New("container terminated before sleep hook finished")
	}
}

// httpHook counts any response as success, as upstream does.
func (r *Runtime) httpHook(ctx context.Context, pod *corev1.Pod, container *corev1.Container, podIPs []string, get *corev1.HTTPGetAction) error {
	if get.Host == "" && len(podIPs) == 0 {
		return errors.New("failed to find networking container: the pod has no address of its own, set httpGet.host")
	}
	request, err := httpget.Request(ctx, container, get, cmp.Or(podIPs...), "kube-lifecycle/1.37")
	if err != nil {
		return err
	}
	err = doHook(request)
	if failed, ok := errors.AsType[*url.Error](err); ok && strings.Contains(failed.Err.Error(), "server gave HTTP response to HTTPS client") {
		request = request.Clone(ctx)
		request.URL.Scheme = "http"
		request.Header.Del("Authorization") // it was meant for an encrypted connection
		if doHook(request) == nil {
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
