package syncloop

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers"
	"minikubelet/runtime/cri"
	"minikubelet/status"
)

// Upstream: pkg/kubelet/preemption/preemption.go and pkg/kubelet/events/event.go.
const (
	preempting          = "Preempting"
	preempted           = "Preempted in order to admit critical pod"
	preemptedCondition  = "Pod was preempted by Kubelet to accommodate a critical pod."
	unexpectedAdmission = "UnexpectedAdmissionError"
)

// makeRoom ends pods so that a critical one that lacks nothing but resources is admitted, and has it wait for them. It
// returns why the pod is not admitted all the same.
func (l *Loop) makeRoom(ctx context.Context, in AdmissionInput, rejection *Rejection) *Rejection {
	lacks := shortages(in)
	if len(lacks) == 0 || !strings.HasPrefix(rejection.Reason, "OutOf") {
		return rejection
	}
	candidates := slices.DeleteFunc(slices.Clone(in.Others), func(pod *corev1.Pod) bool { return l.waiting[pod.UID] })
	chosen, err := victims(in.Pod, candidates, lacks)
	if err != nil {
		return &Rejection{unexpectedAdmission, fmt.Sprintf(
			"Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: %v", err)}
	}
	in.Others = slices.DeleteFunc(in.Others, func(pod *corev1.Pod) bool { return slices.Contains(chosen, pod) })
	if rejection := Admit(in); rejection != nil {
		return rejection // for another reason, which ending pods does not help
	}
	for _, victim := range chosen {
		klog.FromContext(ctx).Info("Preempting a pod for a critical one", "pod", klog.KObj(victim), "podUID", victim.UID, "for", klog.KObj(in.Pod), "lacks", lacks[0].name)
		l.Events.Event(victim, corev1.EventTypeWarning, preempting, preempted)
		l.metrics.preemptions.WithLabelValues(string(lacks[0].name)).Inc()
		l.Workers.Kill(victim.UID, podworkers.Kill{Override: &status.Override{
			Phase: corev1.PodFailed, Reason: preempting, Message: preempted, Condition: &corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: preemptedCondition,
			},
		}})
		if podinfo.IsStatic(victim) {
			l.refused[victim.UID] = "" // no controller makes it again
		}
	}
	l.waiting[in.Pod.UID] = true
	go l.awaitRoom(ctx, in.Pod.UID, chosen)
	return nil
}

// awaitRoom tells the loop when pods have ended, or have had long enough to.
func (l *Loop) awaitRoom(ctx context.Context, uid types.UID, ending []*corev1.Pod) {
	longest := 10 * time.Second
	for _, pod := range ending {
		if grace := pod.Spec.TerminationGracePeriodSeconds; grace != nil {
			longest = max(longest, cri.Seconds(min(*grace, math.MaxInt32)*3/2))
		}
	}
	timer := time.NewTimer(longest)
	defer timer.Stop()
	for _, pod := range ending {
		select {
		case <-l.Workers.Cleaned(pod.UID):
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		break
	}
	select {
	case l.room <- uid:
	case <-ctx.Done():
	}
}

// startWaiting starts a pod that was admitted and has waited for room, unless it is gone.
func (l *Loop) startWaiting(ctx context.Context, uid types.UID) {
	pod, taken := l.given[uid]
	if !l.waiting[uid] || !taken {
		return
	}
	delete(l.waiting, uid)
	l.start(ctx, pod)
}

// start hands a pod that the node took to a worker. If it was refused before, that worker ends first.
func (l *Loop) start(ctx context.Context, pod *corev1.Pod) {
	l.Workers.Removed(pod.UID)
	l.tell(ctx, podworkers.Update{Pod: pod})
}

// waitsForRoom tells whether an update is kept from the pod's worker, since the pod waits for others to end. What comes
// meanwhile is in the pod that is started then. A pod that is to end waits no more.
func (l *Loop) waitsForRoom(u podworkers.Update) bool {
	if l.waiting[u.Pod.UID] && (u.Pod.DeletionTimestamp != nil || u.Kill != nil) {
		delete(l.waiting, u.Pod.UID)
	}
	return l.waiting[u.Pod.UID]
}

// noteRefused keeps a static pod in mind that was refused because of others, which may go.
func (l *Loop) noteRefused(pod *corev1.Pod, r *Rejection) {
	full := strings.HasPrefix(r.Reason, "OutOf") || r.Reason == "NodePorts" || r.Reason == unexpectedAdmission
	if full && podinfo.IsStatic(pod) {
		l.refused[pod.UID] = r.why()
	}
}

// admitRefused tries static pods again that were refused because the node was full, the most important first. Pods of the
// apiserver are replaced by their controllers; no controller replaces a static one. A try is a step only if it ends otherwise
// than the one before.
func (l *Loop) admitRefused(ctx context.Context) {
	var refused []*corev1.Pod
	for uid := range l.refused {
		if pod, ok := l.Pods.Get(uid); ok {
			refused = append(refused, pod)
		}
	}
	slices.SortFunc(refused, func(a, b *corev1.Pod) int {
		if p, q := priority(a), priority(b); p != q {
			return int(q) - int(p)
		}
		return strings.Compare(podinfo.FullName(a), podinfo.FullName(b))
	})
	for _, pod := range refused {
		given, rejection := l.decide(ctx, pod)
		if rejection != nil {
			if why := rejection.why(); why != l.refused[pod.UID] {
				l.refused[pod.UID] = why
				cri.Mark(ctx, "admission", pod, why)
			}
			continue
		}
		cri.Mark(ctx, "admission", pod, "there is room for it now")
		klog.FromContext(ctx).Info("There is room for a static pod that was refused", "pod", klog.KObj(pod), "podUID", pod.UID)
		delete(l.refused, pod.UID)
		if !l.waiting[pod.UID] {
			l.start(ctx, given)
		}
	}
}
