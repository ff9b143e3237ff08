package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"minikubelet/runtime/cri"
	"minikubelet/runtime/spec"
)

// createPodSandbox makes the pod's sandbox and returns its status, addresses included.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_sandbox.go createPodSandbox
func (r *Runtime) createPodSandbox(ctx context.Context, pod *corev1.Pod, config *runtimeapi.PodSandboxConfig, handler, why string) (_ *runtimeapi.PodSandboxStatus, err error) {
	ctx, end := cri.Step(ctx, "createPodSandbox", pod, cri.Why(why))
	defer func() { end(err) }()
	logger := klog.FromContext(ctx).WithValues("pod", klog.KObj(pod), "podUID", pod.UID)

	// Step 1: the log directory.
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return nil, fmt.Errorf("failed to create log directory for pod %q: %w", spec.ReferenceName(pod), err)
	}

	// Step 2: the pod's cgroup, which the sandbox's and the containers' are made in.
	if err := r.opts.Cgroups.EnsurePod(pod); err != nil {
		r.podEvent(pod, corev1.EventTypeWarning, eventFailedPodContainer, "unable to ensure pod container exists: %v", err)
		return nil, err
	}

	// Step 3: the sandbox.
	made, err := r.opts.CRI.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		r.opts.Cache.Acted(pod.UID)
		return nil, err
	}
	logger.V(4).Info("Created pod sandbox", "sandboxID", made.GetPodSandboxId(), "attempt", config.Metadata.Attempt)

	// Step 4: its addresses, which the containers' environment and /etc/hosts need.
	at := time.Now()
	got, err := r.opts.CRI.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: made.GetPodSandboxId()})
	if err == nil && got.GetStatus() == nil {
		err = errors.New("pod sandbox status is nil")
	}
	if err != nil {
		r.opts.Cache.Acted(pod.UID)
		r.podEvent(pod, corev1.EventTypeWarning, eventFailedSandboxStatus, "Unable to get pod sandbox status: %v", err)
		return nil, &statusError{err}
	}
	r.opts.Cache.Merge((&cri.PodStatus{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name}).WithSandbox(got.GetStatus(), at))
	return got.GetStatus(), nil
}

// statusError marks a failure that has had its event.
type statusError struct{ error }

func (e *statusError) Unwrap() error { return e.error }

// generatePodSandboxConfig describes the pod's sandbox, and sends an event for what of the pod's DNS cannot be had.
func (r *Runtime) generatePodSandboxConfig(pod *corev1.Pod, attempt uint32, handler string) (*runtimeapi.PodSandboxConfig, error) {
	users, err := r.opts.UserNamespaces.ForPod(pod, handler, r.opts.Handler(handler).UserNamespaces) // part: user namespaces, runtime/userns
	if err != nil {
		return nil, err
	}
	in := spec.Sandbox{Attempt: attempt, CgroupParent: r.opts.Cgroups.PodParent(pod), Users: users}
	if r.opts.ResolvConf != "" && pod.Spec.DNSPolicy != corev1.DNSNone {
		if in.HostDNS, err = readResolvConf(r.opts.ResolvConf); err != nil {
			return nil, fmt.Errorf("resolvConf: %w", err)
		}
	}
	config, warnings, err := r.opts.Node.SandboxConfig(pod, in)
	for _, warning := range warnings {
		r.podEvent(pod, corev1.EventTypeWarning, warning.Reason, "%s", warning.Message)
	}
	return config, err
}

func readResolvConf(path string) (*runtimeapi.DNSConfig, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return spec.ParseResolvConf(file)
}

// handlerOf is the runtime handler of the pod's class. If the class was deleted while the pod runs, or the classes have not been
// listed since the kubelet's start, it is what the pod's sandbox was made with.
func (r *Runtime) handlerOf(pod *corev1.Pod, observed *cri.PodStatus) (string, error) {
	handler, err := r.opts.Classes.LookupRuntimeHandler(pod.Spec.RuntimeClassName)
	if box := observed.ReadySandbox(); err != nil && box != nil {
		return box.GetRuntimeHandler(), nil
	}
	return handler, err
}

// RecursiveReadOnly tells whether the runtime of the pod's class can make mounts read-only with all that is mounted below.
func (r *Runtime) RecursiveReadOnly(pod *corev1.Pod) bool {
	observed, _ := r.opts.Cache.Get(pod.UID)
	handler, err := r.handlerOf(pod, observed)
	return err == nil && ptr.Deref(r.opts.Handler(handler).RecursiveReadOnlyMounts, false)
}
