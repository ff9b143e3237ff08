package syncloop

import (
	"cmp"
	"context"
	"runtime"
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

// update hands a pod to its worker, with the resources it was allocated instead of those it asks for.
//
// Upstream: pkg/kubelet/pod_workers.go UpdatePod
func (l *Loop) update(ctx context.Context, u podworkers.Update) {
	if l.waiting[u.Pod.UID] {
		if u.Pod.DeletionTimestamp == nil && u.Kill == nil {
			return // it is started as it will be then
		}
		delete(l.waiting, u.Pod.UID)
	}
	u.Pod, _ = l.Allocation.Allocated(u.Pod)
	l.Workers.UpdatePod(ctx, u)
}

// noteResize queues a pod whose spec asks for other resources than it was allocated, and reports whether it does.
func (l *Loop) noteResize(pod *corev1.Pod) bool {
	if !l.admitted[pod.UID] || pod.DeletionTimestamp != nil || ended(pod) {
		delete(l.resizes, pod.UID)
		return false
	}
	if _, differs := l.Allocation.Allocated(pod); !differs {
		delete(l.resizes, pod.UID)
		l.Allocation.Unpend(pod.UID) // what it asked for before, it asks for no more
		return false
	}
	l.resizes[pod.UID] = true
	return true
}

// resizePods tries every resize that waits, in the order of who comes first.
//
// Upstream: pkg/kubelet/allocation/allocation_manager.go retryPendingResizes
func (l *Loop) resizePods(ctx context.Context) {
	if len(l.resizes) == 0 || !l.Config.SeenAll() {
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
			l.update(ctx, podworkers.Update{Pod: pod})
		}
	}
}

// resizePod allocates what the pod asks for if the node has it, else the pod goes on waiting. It reports whether the worker
// has to know.
//
// Upstream: pkg/kubelet/allocation/allocation_manager.go handlePodResourcesResize
func (l *Loop) resizePod(ctx context.Context, pod *corev1.Pod) bool {
	logger := klog.FromContext(ctx)
	others := slices.DeleteFunc(l.active(), func(p *corev1.Pod) bool { return p.UID == pod.UID })
	in := l.admission(pod, others)
	if l.Pressure != nil {
		in.Pressure = l.Pressure()
	}
	rejection := Admit(in)
	if rejection != nil {
		logger.V(2).Info("Pod resize is deferred", "pod", klog.KObj(pod), "podUID", pod.UID, "reason", rejection.Reason, "message", rejection.Message)
		news := l.Allocation.Pend(pod, corev1.PodReasonDeferred, rejection.Message)
		if news {
			l.Events.Event(pod, corev1.EventTypeWarning, allocation.EventDeferred,
				allocation.Message("Pod resize "+rejection.Reason, pod, pod.Generation, rejection.Message))
		}
		return news
	}
	if err := l.Allocation.Allocate(pod); err != nil {
		logger.Error(err, "Allocating a pod's new resources failed, will be retried", "pod", klog.KObj(pod), "podUID", pod.UID)
		return false
	}
	delete(l.resizes, pod.UID)
	l.Allocation.Begin(pod)
	l.Events.Event(pod, corev1.EventTypeNormal, allocation.EventStarted, allocation.Message("Pod resize started", pod, pod.Generation, ""))
	return true
}

// resizesFirst orders resizes that wait: those that ask for no more than they have, then by priority, then guaranteed pods, then
// who has waited longest.
//
// Upstream: pkg/kubelet/allocation/allocation_manager.go sortPendingResizes
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
//
// Upstream: pkg/kubelet/allocation/allocation_manager.go isResizeIncreasingRequests
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

// admission is what Admit looks at. Pods count with what they were allocated.
func (l *Loop) admission(pod *corev1.Pod, others []*corev1.Pod) AdmissionInput {
	for i := range others {
		others[i], _ = l.Allocation.Allocated(others[i])
	}
	allocatable := l.Node.Allocatable()
	if l.Allocatable != nil {
		allocatable = l.Allocatable(pod.UID, allocatable)
	}
	return AdmissionInput{
		Pod: pod, Others: others,
		Node: l.Node.Node(), Allocatable: allocatable, MaxPods: l.MaxPods,
		GOOS: runtime.GOOS, CheckSysctls: l.CheckSysctls, AppArmor: l.AppArmor,
	}
}
