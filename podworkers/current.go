package podworkers

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/runtime/cri"
)

// current returns what the runtime has of the pod. Where it cannot tell, no step is made, and the pod is told; a runtime that is away
// is the node's trouble.
//
// Upstream: pkg/kubelet/pod_workers.go podWorkerLoop.
func (w *worker) current(ctx context.Context, pod *corev1.Pod) (*cri.PodStatus, error) {
	observed, err := w.opts.Cache.Current(ctx, pod)
	if err != nil && ctx.Err() == nil && !cri.IsUnavailable(err) {
		w.opts.Events.Eventf(pod, corev1.EventTypeWarning, "FailedSync", "error determining status: %v", err)
	}
	return observed, err
}
