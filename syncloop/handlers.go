package syncloop

import (
	"context"
	"runtime"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"minikubelet/config"
	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers"
	"minikubelet/runtime/cri"
	"minikubelet/status"
)

// handleUpdate gives the pods of one source's change to the handler of its kind.
func (l *Loop) handleUpdate(ctx context.Context, u config.PodUpdate) {
	klog.FromContext(ctx).V(2).Info("SyncLoop "+u.Op.String(), "source", u.Source, "pods", klog.KObjSlice(u.Pods))
	for _, pod := range u.Pods {
		if !podinfo.IsMirror(pod) {
			_, end := cri.Since(ctx, "update", pod, u.Seen, cri.Why(u.Op.String()+" from "+u.Source))
			end(nil)
		}
	}
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
	}
}

// HandlePodAdditions takes in pods that are new to the node, oldest first: after a restart of the kubelet the pods that ran
// before are admitted before later ones.
//
// Upstream: pkg/kubelet/kubelet.go HandlePodAdditions.
func (l *Loop) HandlePodAdditions(ctx context.Context, pods []*corev1.Pod) {
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	for _, pod := range pods {
		if podinfo.IsMirror(pod) {
			l.handleMirror(pod)
			continue
		}
		pod = l.recall(pod) // part: mirrors of static pods, syncloop/mirrors.go
		l.Pods.Set(pod)
		l.bindMirror(pod)
		l.Probes.Seed(pod)
		given, rejection := l.admit(ctx, pod)
		u := podworkers.Update{Pod: given}
		if rejection != nil {
			u.Kill = l.reject(ctx, pod, rejection)
		}
		l.noteResize(pod)
		l.tell(ctx, u)
	}
	l.resizePods(ctx) // part: in-place resize, syncloop/resize.go
}

// admit decides about a new pod: what it had already from an earlier kubelet, whether the node takes it, and what it is
// given. It returns the pod with the resources that it is given. A pod that is ending or ended asks for nothing, but one that
// is ending takes its room until it has ended.
func (l *Loop) admit(ctx context.Context, pod *corev1.Pod) (given *corev1.Pod, rejection *Rejection) {
	if ended(pod) {
		return pod, nil
	}
	if pod.DeletionTimestamp != nil {
		l.given[pod.UID] = pod
		return pod, nil
	}
	ctx, end := cri.Step(ctx, "admission", pod, cri.Why("the pod is new to the kubelet"))
	defer end(nil)
	given, rejection = l.decide(ctx, pod)
	cri.Changed(ctx, pod.Spec, given.Spec)
	if rejection != nil {
		cri.Because(ctx, rejection.why())
	}
	return given, rejection
}

// decide is admit without the step.
func (l *Loop) decide(ctx context.Context, pod *corev1.Pod) (given *corev1.Pod, rejection *Rejection) {
	logger := klog.FromContext(ctx).WithValues("pod", klog.KObj(pod), "podUID", pod.UID)
	given, err := l.Allocation.Recall(pod)
	if err != nil {
		logger.Error(err, "What the pod was given earlier is not known, its spec counts")
	}
	in := l.admission(given)
	// A pod that ran before the kubelet started is not new to the node: eviction decides about it.
	if _, here := l.PLEG.Cache.Get(pod.UID); here {
		in.Pressure = nil
	}
	in.ShuttingDown = l.ShuttingDown != nil && l.ShuttingDown()
	rejection = Admit(in)
	if rejection != nil && podinfo.IsCritical(pod) {
		rejection = l.makeRoom(ctx, in, rejection) // part: preemption, syncloop/room.go
	}
	if rejection != nil {
		if phase, working := l.Workers.Phase(pod.UID); !working || phase >= podworkers.Terminated {
			delete(l.given, pod.UID) // what makes room for another takes its own until it has ended
		}
		return given, rejection
	}
	l.given[pod.UID] = given
	if err := l.Allocation.Allocate(given); err != nil {
		logger.Error(err, "Recording a pod's resources failed")
	}
	return given, nil
}

// admission is what Admit looks at for a pod with these resources.
func (l *Loop) admission(pod *corev1.Pod) AdmissionInput {
	in := AdmissionInput{
		Pod: pod, Others: slices.DeleteFunc(l.active(), func(other *corev1.Pod) bool { return other.UID == pod.UID }),
		Node: l.Node.Node(), Allocatable: l.Node.Allocatable(), MaxPods: l.MaxPods,
		GOOS: runtime.GOOS, AppArmor: l.AppArmor,
	}
	if l.CheckSysctls != nil {
		in.Sysctls = l.CheckSysctls(pod)
	}
	if l.Allocatable != nil {
		in.Allocatable = l.Allocatable(pod.UID, in.Allocatable)
	}
	if l.Pressure != nil {
		in.Pressure = l.Pressure()
	}
	return in
}

// active returns the pods that the node took and that may still use its resources, as their workers have them.
func (l *Loop) active() []*corev1.Pod {
	var active []*corev1.Pod
	for uid, pod := range l.given {
		if phase, ok := l.Workers.Phase(uid); !ok || phase < podworkers.Terminated {
			active = append(active, pod)
		}
	}
	return active
}

// reject tells why the node does not take the pod, and returns the end that its worker gives it.
func (l *Loop) reject(ctx context.Context, pod *corev1.Pod, rejection *Rejection) *podworkers.Kill {
	klog.FromContext(ctx).Info("Pod admission denied", "pod", klog.KObj(pod), "podUID", pod.UID, "reason", rejection.Reason, "message", rejection.Message)
	l.Workers.CountRejection(rejection.Reason)
	l.Events.Event(pod, corev1.EventTypeWarning, rejection.Reason, rejection.Message)
	l.noteRefused(pod, rejection)
	return &podworkers.Kill{Override: &status.Override{
		Phase: corev1.PodFailed, Reason: rejection.Reason, Message: "Pod was rejected: " + rejection.Message,
	}}
}

// tell hands a pod to its worker, unless it waits for room on the node.
func (l *Loop) tell(ctx context.Context, u podworkers.Update) {
	if !l.waitsForRoom(u) {
		l.Workers.UpdatePod(ctx, u)
	}
}

// renew brings what is known of a pod up to date with a new version of it. It returns the pod with the resources that it
// was given.
func (l *Loop) renew(pod *corev1.Pod) *corev1.Pod {
	l.Pods.Set(pod)
	l.Status.Reconcile(pod)
	given, _ := l.Allocation.Allocated(pod)
	if _, taken := l.given[pod.UID]; taken {
		l.given[pod.UID] = given
	}
	return given
}

// HandlePodUpdates takes in changed pods.
func (l *Loop) HandlePodUpdates(ctx context.Context, pods []*corev1.Pod) {
	for _, pod := range pods {
		if podinfo.IsMirror(pod) {
			l.handleMirror(pod)
			continue
		}
		given := l.renew(pod)
		if l.noteResize(pod) {
			l.resizePods(ctx)
			given = l.given[pod.UID]
		}
		l.tell(ctx, podworkers.Update{Pod: given})
	}
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// HandlePodReconcile takes in pods of which only the status changed, most often because this kubelet wrote it.
func (l *Loop) HandlePodReconcile(ctx context.Context, pods []*corev1.Pod) {
	for _, pod := range pods {
		if podinfo.IsMirror(pod) && ended(pod) { // its static pod may have come back meanwhile, and needs another
			l.handleMirror(pod)
			continue
		}
		if podinfo.IsMirror(pod) {
			l.Pods.Set(pod)
			l.Status.Reconcile(pod)
			continue
		}
		given := l.renew(pod)
		l.noteResize(pod)
		if len(pod.Spec.ReadinessGates) > 0 { // they are conditions that others write
			l.tell(ctx, podworkers.Update{Pod: given})
		}
	}
	l.resizePods(ctx) // a pod that ended or shrank may have made room
}

// HandlePodRemoves takes in pods that their source no longer has.
func (l *Loop) HandlePodRemoves(ctx context.Context, pods []*corev1.Pod) {
	for _, pod := range pods {
		l.Pods.Remove(pod)
		if podinfo.IsMirror(pod) {
			l.mirrorGone(pod)
			continue
		}
		delete(l.given, pod.UID)
		delete(l.refused, pod.UID)
		for _, kept := range []map[types.UID]bool{l.resizes, l.recalled, l.waiting} {
			delete(kept, pod.UID)
		}
		l.Workers.Removed(pod.UID)
	}
	l.resizePods(ctx)
}
