package syncloop

import (
	"context"
	"runtime"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"minikubelet/config"
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
	for _, pod := range pods {
		l.Pods.Set(pod)
		if config.IsMirror(pod) {
			l.handleMirror(pod)
			continue
		}
		l.bindMirror(pod)
		l.Probes.Seed(pod)
		u := podworkers.Update{Pod: pod}
		if rejection := l.admit(pod); rejection != nil {
			klog.FromContext(ctx).Info("Pod admission denied", "pod", klog.KObj(pod), "podUID", pod.UID, "reason", rejection.Reason, "message", rejection.Message)
			l.metrics.rejections.WithLabelValues(rejection.Reason).Inc()
			l.Events.Event(pod, corev1.EventTypeWarning, rejection.Reason, rejection.Message)
			u.Kill = &podworkers.Kill{Override: &status.Override{
				Phase:   corev1.PodFailed,
				Reason:  rejection.Reason,
				Message: "Pod was rejected: " + rejection.Message,
			}}
		}
		l.Workers.UpdatePod(ctx, u)
	}
}

// admit decides whether the node takes the pod. A pod that is ending or ended asks for nothing.
func (l *Loop) admit(pod *corev1.Pod) *Rejection {
	if pod.DeletionTimestamp != nil || ended(pod) {
		return nil
	}
	rejection := Admit(AdmissionInput{
		Pod: pod, Others: l.active(),
		Node: l.Node.Node(), Allocatable: l.Node.Allocatable(), MaxPods: l.MaxPods,
		GOOS: runtime.GOOS, CheckSysctls: l.CheckSysctls,
	})
	l.admitted[pod.UID] = rejection == nil
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
		if config.IsMirror(pod) {
			l.handleMirror(pod)
			continue
		}
		l.Status.Reconcile(pod)
		l.Workers.UpdatePod(ctx, podworkers.Update{Pod: pod})
	}
}

// HandlePodReconcile takes in pods of which only the status changed, most often because
// this kubelet wrote it.
//
// Upstream: pkg/kubelet/kubelet.go HandlePodReconcile.
func (l *Loop) HandlePodReconcile(ctx context.Context, pods []*corev1.Pod) {
	for _, pod := range pods {
		l.Pods.Set(pod)
		l.Status.Reconcile(pod)
		// Readiness gates are conditions that others write.
		if len(pod.Spec.ReadinessGates) > 0 && !config.IsMirror(pod) {
			l.Workers.UpdatePod(ctx, podworkers.Update{Pod: pod})
		}
	}
}

// HandlePodRemoves takes in pods that their source no longer has.
//
// Upstream: pkg/kubelet/kubelet.go HandlePodRemoves.
func (l *Loop) HandlePodRemoves(_ context.Context, pods []*corev1.Pod) {
	for _, pod := range pods {
		l.Pods.Remove(pod)
		if config.IsMirror(pod) {
			l.mirrorGone(pod)
			continue
		}
		delete(l.admitted, pod.UID)
		l.Workers.Removed(pod.UID)
	}
}

// handleMirror deletes a mirror pod that stands for nothing, and has the worker of the
// static pod look at one that came or changed.
func (l *Loop) handleMirror(mirror *corev1.Pod) {
	static := l.Pods.StaticOf(mirror)
	if static == nil {
		return // housekeeping deletes it once the static sources have synced
	}
	l.bindMirror(static)
	l.Status.Reconcile(mirror)
	l.Workers.Poke(static.UID)
}

func (l *Loop) mirrorGone(mirror *corev1.Pod) {
	if static := l.Pods.StaticOf(mirror); static != nil {
		l.bindMirror(static)
		l.Workers.Poke(static.UID)
	}
}

// bindMirror tells the status manager which API object a static pod's status goes to.
func (l *Loop) bindMirror(pod *corev1.Pod) {
	if l.Mirror != nil && config.IsStatic(pod) {
		l.Status.SetMirror(pod.UID, l.Pods.MirrorOf(pod))
	}
}
