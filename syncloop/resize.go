package syncloop

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
	"k8s.io/klog/v2"

	"minikubelet/podworkers"
	"minikubelet/runtime/allocation"
)

// retryResizes is how often resizes that wait are looked at again although nothing seems to have changed.
//
// Upstream: pkg/kubelet/allocation/allocation_manager.go retryDelay
const retryResizes = 3 * time.Minute

// noteResize queues a pod whose spec asks for other resources than it was given, and reports whether it does.
func (l *Loop) noteResize(pod *corev1.Pod) bool {
	given, taken := l.given[pod.UID]
	if taken && given != pod && pod.DeletionTimestamp == nil && !ended(pod) {
		l.resizes[pod.UID] = true
		return true
	}
	if l.resizes[pod.UID] { // it does not ask any more
		delete(l.resizes, pod.UID)
		l.Allocation.Unpend(pod.UID)
	}
	return false
}

// resizePods tries every resize that waits, in the order of resizesFirst.
func (l *Loop) resizePods(ctx context.Context) {
	if len(l.resizes) == 0 || !l.Config.AllReady() {
		return
	}
	l.lastResize = time.Now()
	var waiting []*corev1.Pod
	for uid := range l.resizes {
		if pod, ok := l.Pods.Get(uid); ok {
			waiting = append(waiting, pod)
		} else {
			delete(l.resizes, uid)
		}
	}
	slices.SortFunc(waiting, l.resizesFirst)
	for _, pod := range waiting {
		if l.resizePod(ctx, pod) {
			l.tell(ctx, podworkers.Update{Pod: l.given[pod.UID]})
		}
	}
}

// resizePod allocates what the pod asks for if the node has it, else the pod goes on waiting. It reports whether the worker
// has to know.
func (l *Loop) resizePod(ctx context.Context, pod *corev1.Pod) bool {
	logger := klog.FromContext(ctx)
	if why := l.infeasible(pod); why != "" {
		news := l.pend(ctx, pod, corev1.PodReasonInfeasible, allocation.EventInfeasible, &Rejection{corev1.PodReasonInfeasible, why})
		if news {
			l.metrics.infeasible.WithLabelValues("swap_limitation").Inc()
		}
		return news
	}
	if rejection := Admit(l.admission(pod)); rejection != nil {
		return l.pend(ctx, pod, corev1.PodReasonDeferred, allocation.EventDeferred, rejection)
	}
	if err := l.Allocation.Allocate(pod); err != nil {
		logger.Error(err, "Allocating a pod's new resources failed, will be retried", "pod", klog.KObj(pod), "podUID", pod.UID)
		return false
	}
	delete(l.resizes, pod.UID)
	l.given[pod.UID] = pod
	l.Allocation.Begin(pod)
	l.Events.Event(pod, corev1.EventTypeNormal, allocation.EventStarted, allocation.Message("Pod resize started", pod, pod.Generation, ""))
	return true
}

// infeasible is why the node never gives a pod what it asks for while it runs.
func (l *Loop) infeasible(pod *corev1.Pod) string {
	if l.Infeasible == nil {
		return ""
	}
	has, _ := l.Allocation.Allocated(pod)
	return l.Infeasible(pod, has)
}

// pend has a resize wait, and reports whether that, or why, is news.
func (l *Loop) pend(ctx context.Context, pod *corev1.Pod, reason, event string, why *Rejection) bool {
	klog.FromContext(ctx).V(2).Info("Pod resize waits", "pod", klog.KObj(pod), "podUID", pod.UID, "as", reason, "reason", why.Reason, "message", why.Message)
	news := l.Allocation.Pend(pod, reason, why.Message)
	if news {
		l.Events.Event(pod, corev1.EventTypeWarning, event, allocation.Message("Pod resize "+why.Reason, pod, pod.Generation, why.Message))
	}
	return news
}

// resizesFirst orders resizes that wait: those that ask for no more than they have, then by priority, then guaranteed pods, then
// those that have waited longest.
func (l *Loop) resizesFirst(a, b *corev1.Pod) int {
	rank := func(yes bool) int {
		if yes {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(rank(!l.asksForMore(a)), rank(!l.asksForMore(b))),
		cmp.Compare(priority(b), priority(a)),
		cmp.Compare(rank(a.Status.QOSClass == corev1.PodQOSGuaranteed), rank(b.Status.QOSClass == corev1.PodQOSGuaranteed)),
		l.pendingSince(a.UID).Compare(l.pendingSince(b.UID)),
		cmp.Compare(a.UID, b.UID),
	)
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// asksForMore tells whether the pod's requests exceed what it was allocated.
func (l *Loop) asksForMore(pod *corev1.Pod) bool {
	allocated, _ := l.Allocation.Allocated(pod)
	has, wants := resource.PodRequests(allocated, resource.PodResourcesOptions{}), resource.PodRequests(pod, resource.PodResourcesOptions{})
	return wants.Memory().Cmp(*has.Memory()) > 0 || wants.Cpu().Cmp(*has.Cpu()) > 0
}

// pendingSince is when the pod's resize began to wait; one that is new has waited least.
func (l *Loop) pendingSince(uid types.UID) time.Time {
	for _, c := range l.Allocation.Conditions(uid) {
		if c.Type == corev1.PodResizePending {
			return c.LastTransitionTime.Time
		}
	}
	return time.Now()
}

// saveTimeout is how long the end of the kubelet waits for a slow disk.
const saveTimeout = 5 * time.Second

// saveAllocations waits, a moment only, until what pods were given last is on disk.
func (l *Loop) saveAllocations(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	l.Allocation.Wait(ctx)
}
