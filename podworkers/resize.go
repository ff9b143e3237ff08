package podworkers

import (
	"errors"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/runtime/allocation"
	"minikubelet/runtime/resize"
)

// trackResize sets the pod's condition of a resize in progress while something of the pod lags behind its allocation, and
// sends the event of its completion when nothing does any more.
//
// Upstream: pkg/kubelet/kubelet.go SyncPod, which asks IsPodResizeInProgress.
func (w *worker) trackResize(pod *corev1.Pod) {
	store := w.opts.Runtime.Allocation()
	if _, lags := store.Actuated(w.uid); lags {
		store.Progress(pod, "", "")
	} else if generation, was := store.Done(w.uid); was {
		w.opts.Events.Event(pod, corev1.EventTypeNormal, allocation.EventCompleted,
			allocation.Message("Pod resize completed", pod, generation, ""))
	}
}

// resizeFailed puts the error of a failed resize into the pod's condition, and sends an event when the error is new.
func (w *worker) resizeFailed(pod *corev1.Pod, err error) {
	failed, ok := errors.AsType[*resize.Error](err)
	if !ok {
		return
	}
	generation, news := w.opts.Runtime.Allocation().Progress(pod, corev1.PodReasonError, failed.Error())
	if news {
		w.opts.Events.Event(pod, corev1.EventTypeWarning, allocation.EventError,
			allocation.Message("Pod resize error", pod, generation, failed.Error()))
	}
}
