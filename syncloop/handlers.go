package syncloop

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"minikubelet/config"
	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers"
	"minikubelet/status"
)

// handleUpdate gives the pods of one source's change to the handler of its kind.
func (l *Loop) handleUpdate(ctx context.Context, u config.PodUpdate) {
	klog.FromContext(ctx).V(2).Info("SyncLoop "+u.Op.String(), "source", u.Source, "pods", klog.KObjSlice(u.Pods))
	switch u.Op {
	case config.ADD:
		l.HandlePodAdditions(ctx, u.Pods)
	case config.UPDATE, config.DELETE:
		// A deletion timestamp is one more change of the pod; its worker acts on it.
		l.HandlePodUpdates(ctx, u.Pods)
	case config.REMOVE:
		l.HandlePodRemoves(ctx, u.Pods)
	case config.RECONCILE:
		l.HandlePodReconcile(ctx, u.Pods)
	default:
		klog.FromContext(ctx).Error(nil, "SyncLoop got an update of unknown kind", "op", u.Op, "source", u.Source)
	}
}

// HandlePodAdditions takes in pods that are new to the node: oldest first, so that the
// pods that were there before a restart are admitted before later ones.
//
// Upstream: pkg/kubelet/kubelet.go HandlePodAdditions.
func (l *Loop) HandlePodAdditions(ctx context.Context, pods []*corev1.Pod) {
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	defer l.resizePods(ctx) // part: in-place resize, syncloop/resize.go
	for _, pod := range pods {
		if podinfo.IsStatic(pod) {
			pod = l.recall(pod) // part: pods that outlived a kubelet, syncloop/mirrors.go
		}
		l.Pods.Set(pod)
		if podinfo.IsMirror(pod) {
			l.handleMirror(pod)
			continue
		}
		l.bindMirror(pod)
		l.Probes.Seed(pod)
		u := podworkers.Update{Pod: pod}
		rejection := l.admit(ctx, pod)
		if isFull(rejection) && podinfo.IsStatic(pod) {
			l.refused[pod.UID] = true
		}
		if rejection != nil {
			klog.FromContext(ctx).Info("Pod admission denied", "pod", klog.KObj(pod), "podUID", pod.UID, "reason", rejection.Reason, "message", rejection.Message)
			l.Workers.CountRejection(rejection.Reason)
			l.Events.Event(pod, corev1.EventTypeWarning, rejection.Reason, rejection.Message)
			u.Kill = &podworkers.Kill{Override: &status.Override{
				Phase:   corev1.PodFailed,
				Reason:  rejection.Reason,
				Message: "Pod was rejected: " + rejection.Message,
			}}
		}
		l.noteResize(pod)
		l.update(ctx, u)
	}
}

// admit decides whether the node takes the pod. A pod that is ending or ended asks for nothing; one that an earlier
// kubelet took asks for what it had then.
//
// Upstream: pkg/kubelet/allocation/allocation_manager.go AddPod
func (l *Loop) admit(ctx context.Context, pod *corev1.Pod) *Rejection {
	if pod.DeletionTimestamp != nil || ended(pod) {
		return nil
	}
	logger := klog.FromContext(ctx)
	pod, err := l.Allocation.Recall(pod)
	if err != nil {
		logger.Error(err, "What the pod was given earlier is not known, its spec counts", "pod", klog.KObj(pod), "podUID", pod.UID)
	}
	in := l.admission(pod, slices.DeleteFunc(l.active(), func(p *corev1.Pod) bool { return p.UID == pod.UID }))
	// Who was here before the kubelet started is no newcomer: the ranking decides.
	if _, here := l.Cache.Get(pod.UID); !here && l.Pressure != nil {
		in.Pressure = l.Pressure()
	}
	in.ShuttingDown = l.ShuttingDown != nil && l.ShuttingDown()
	rejection := Admit(in)
	if rejection != nil && podinfo.IsCritical(pod) {
		rejection = l.makeRoom(ctx, in, rejection) // part: preemption, syncloop/room.go
	}
	l.admitted[pod.UID] = rejection == nil
	if rejection == nil {
		if err := l.Allocation.Allocate(pod); err != nil {
			logger.Error(err, "Recording a pod's resources failed", "pod", klog.KObj(pod), "podUID", pod.UID)
		}
	}
	return rejection
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// HandlePodUpdates takes in changed pods.
//
// Upstream: pkg/kubelet/kubelet.go HandlePodUpdates.
func (l *Loop) HandlePodUpdates(ctx context.Context, pods []*corev1.Pod) {
	for _, pod := range pods {
		l.Pods.Set(pod)
		if podinfo.IsMirror(pod) {
			l.handleMirror(pod)
			continue
		}
		l.Status.Reconcile(pod)
		if l.noteResize(pod) {
			l.resizePods(ctx)
		}
		l.update(ctx, podworkers.Update{Pod: pod})
	}
}

// HandlePodReconcile takes in pods of which only the status changed, most often because
// this kubelet wrote it.
//
// Upstream: pkg/kubelet/kubelet.go HandlePodReconcile.
func (l *Loop) HandlePodReconcile(ctx context.Context, pods []*corev1.Pod) {
	defer l.resizePods(ctx) // a pod that ended or shrank may have made room
	for _, pod := range pods {
		l.Pods.Set(pod)
		l.Status.Reconcile(pod)
		// Readiness gates are conditions that others write.
		if len(pod.Spec.ReadinessGates) > 0 && !podinfo.IsMirror(pod) {
			l.update(ctx, podworkers.Update{Pod: pod})
		}
	}
}

// HandlePodRemoves takes in pods that their source no longer has.
//
// Upstream: pkg/kubelet/kubelet.go HandlePodRemoves.
func (l *Loop) HandlePodRemoves(ctx context.Context, pods []*corev1.Pod) {
	defer l.resizePods(ctx)
	for _, pod := range pods {
		l.Pods.Remove(pod)
		if podinfo.IsMirror(pod) {
			l.mirrorGone(pod)
			continue
		}
		delete(l.admitted, pod.UID)
		delete(l.resizes, pod.UID)
		delete(l.recalled, pod.UID)
		delete(l.refused, pod.UID)
		delete(l.waiting, pod.UID)
		l.Workers.Removed(pod.UID)
	}
}
