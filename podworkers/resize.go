package podworkers

import (
	"errors"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/runtime/allocation"
	"minikubelet/runtime/resize"
)

// trackResize brings the pod's resize condition to what is known of its resources: under way, or over, which is an event.
//
// Upstream: pkg/kubelet/kubelet.go SyncPod, which asks IsPodResizeInProgress.
func (w *worker) trackResize(pod *corev1.Pod) {
	store := w.opts.Runtime.Allocation
	if _, lags := store.Actuated(w.uid); lags {
		store.Progress(pod, "", "")
	} else if generation, was := store.Done(w.uid); was {
		w.opts.Events.Event(pod, corev1.EventTypeNormal, allocation.EventCompleted,
			allocation.Message("Pod resize completed", pod, generation, ""))
	}
}

// resizeFailed puts the failure of a resize, if that is among what went wrong, into the condition, and into an event if it
// is news.
func (w *worker) resizeFailed(pod *corev1.Pod, err error) {
	failed, ok := errors.AsType[*resize.Error](err)
	if !ok {
		return
	}
	generation, news := w.opts.Runtime.Allocation.Progress(pod, corev1.PodReasonError, failed.Error())
	if news {
		w.opts.Events.Event(pod, corev1.EventTypeWarning, allocation.EventError,
			allocation.Message("Pod resize error", pod, generation, failed.Error()))
	}
}
