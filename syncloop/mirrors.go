package syncloop

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// handleMirror takes in a mirror pod that came or changed, and pokes the worker of the static pod.
func (l *Loop) handleMirror(mirror *corev1.Pod) {
	l.Pods.Set(mirror)
	static := l.Pods.StaticOf(mirror)
	if static == nil {
		return // housekeeping deletes it once the static sources have synced
	}
	l.bindMirror(static)
	l.Status.Reconcile(mirror)
	l.Workers.Poke(static.UID, "its mirror in the apiserver came, changed or went")
}

func (l *Loop) mirrorGone(mirror *corev1.Pod) {
	if static := l.Pods.StaticOf(mirror); static != nil {
		l.bindMirror(static)
		l.Workers.Poke(static.UID, "its mirror in the apiserver came, changed or went")
	}
}

// bindMirror tells the status manager which API object a static pod's status goes to. The first mirror of a pod that ran
// before the kubelet started tells how it was then. The mirror of an earlier version, or of a life of the pod that has ended, is
// told nothing of this one: it is replaced.
func (l *Loop) bindMirror(static *corev1.Pod) {
	if l.Mirror == nil || !podinfo.IsStatic(static) {
		return
	}
	mirror := l.Pods.MirrorOf(static)
	if mirror != nil && !mirrors(mirror, static) {
		mirror = nil
	}
	if mirror != nil && l.recalled[static.UID] {
		delete(l.recalled, static.UID)
		if mirror.Status.StartTime != nil {
			l.Probes.Seed(mirror)
			l.Status.Adopt(static.UID, mirror.Status)
		}
	}
	if s, known := l.Status.Get(static.UID); mirror != nil && ended(mirror) && known && !ended(&corev1.Pod{Status: s}) {
		mirror = nil
	}
	l.Status.SetMirror(static.UID, mirror)
}

// bindMirrors binds the mirrors of static pods that were forgotten and came back, whose mirrors have no news to tell.
func (l *Loop) bindMirrors() {
	if l.Mirror == nil {
		return
	}
	for _, pod := range l.Pods.All() {
		l.bindMirror(pod)
	}
}

// mirrors tells whether a mirror pod stands for this version of a static pod.
//
// Upstream: pkg/kubelet/pod/mirror_client.go IsMirrorPodOf
func mirrors(mirror, static *corev1.Pod) bool {
	return mirror.Annotations[podinfo.MirrorAnnotation] == static.Annotations[podinfo.HashAnnotation]
}

// recall gives a static pod, whose source knows no status, the one that it had: when a kubelet first saw it and, if it ran
// before this kubelet started, since when it does. More of that is in its mirror, which may still be under way. Pods of the
// apiserver come with their status.
func (l *Loop) recall(static *corev1.Pod) *corev1.Pod {
	if !podinfo.IsStatic(static) {
		return static
	}
	pod := *static
	pod.Status = *static.Status.DeepCopy()
	pod.Status.StartTime = seen(static.Annotations)
	observed, here := l.PLEG.Cache.Get(static.UID)
	if _, working := l.Workers.Phase(static.UID); !here || working {
		return &pod
	}
	recallFromRuntime(&pod, observed)
	if l.Mirror != nil {
		l.recalled[static.UID] = true
	}
	return &pod
}

// seen is the time in the annotation of a pod or of its sandbox, nil if there is none.
func seen(annotations map[string]string) *metav1.Time {
	at, known := podinfo.FirstSeen(annotations)
	if !known {
		return nil
	}
	return &metav1.Time{Time: at}
}

// recallFromRuntime fills in since when a pod's conditions hold, if they hold, from what the runtime remembers.
func recallFromRuntime(pod *corev1.Pod, observed *cri.PodStatus) {
	holds := func(kind corev1.PodConditionType, since time.Time) {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{
			Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: since},
		})
	}
	if n := len(observed.Sandboxes); n > 0 {
		oldest := observed.Sandboxes[n-1]
		start := seen(oldest.GetAnnotations())
		if start == nil {
			start = &metav1.Time{Time: time.Unix(0, oldest.GetCreatedAt())}
		}
		pod.Status.StartTime = start
		holds(corev1.PodScheduled, start.Time)
	}
	if sandbox := observed.ReadySandbox(); sandbox != nil {
		holds(corev1.PodReadyToStartContainers, time.Unix(0, sandbox.GetCreatedAt()))
	}
	var initialized, ready time.Time
	running := 0
	for i := range pod.Spec.Containers {
		newest := observed.Container(pod.Spec.Containers[i].Name)
		if newest == nil {
			continue
		}
		if initialized.IsZero() || newest.CreatedAt.Before(initialized) {
			initialized = newest.CreatedAt
		}
		if newest.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			running++
			if newest.StartedAt.After(ready) {
				ready = newest.StartedAt
			}
		}
	}
	if !initialized.IsZero() { // regular containers are made when the init containers are done
		holds(corev1.PodInitialized, initialized)
	}
	if running == len(pod.Spec.Containers) && !ready.IsZero() {
		holds(corev1.PodReady, ready)
		holds(corev1.ContainersReady, ready)
	}
}

// deleteLoneMirrors deletes mirror pods whose static pod is in no source any more and has ended.
func (l *Loop) deleteLoneMirrors(ctx context.Context) {
	if l.Mirror == nil || !l.Config.AllReady() {
		return
	}
	lone := slices.DeleteFunc(l.Pods.LoneMirrors(), l.runs)
	if len(lone) == 0 || !l.deletingMirrors.CompareAndSwap(false, true) {
		return
	}
	go func() { // the apiserver may take its time
		defer l.deletingMirrors.Store(false)
		for _, mirror := range lone {
			if err := l.Mirror.Delete(ctx, mirror); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Deleting a mirror pod without its static pod failed, will be retried")
			}
		}
	}()
}

// runs tells whether something of the static pod that a mirror stands for still runs, although its manifest may be gone.
func (l *Loop) runs(mirror *corev1.Pod) bool {
	return slices.ContainsFunc(l.PLEG.Cache.UIDs(), func(uid types.UID) bool {
		observed, ok := l.PLEG.Cache.Get(uid)
		return ok && observed.Namespace == mirror.Namespace && observed.Name == mirror.Name && !observed.Gone()
	})
}

// StaticOf returns the static pod that a mirror pod stands for, nil if it is gone.
func (p *Pods) StaticOf(mirror *corev1.Pod) *corev1.Pod {
	p.mu.RLock()
	defer p.mu.RUnlock()
	pod := p.byName[podinfo.FullName(mirror)]
	if pod == nil || !podinfo.IsStatic(pod) {
		return nil
	}
	return pod
}

// MirrorOf returns the mirror of a static pod, nil while there is none.
func (p *Pods) MirrorOf(static *corev1.Pod) *corev1.Pod {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.mirrors[podinfo.FullName(static)]
}

// LoneMirrors returns the mirror pods whose static pod is gone.
func (p *Pods) LoneMirrors() []*corev1.Pod {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var lone []*corev1.Pod
	for name, mirror := range p.mirrors {
		if pod := p.byName[name]; pod == nil || !podinfo.IsStatic(pod) {
			lone = append(lone, mirror)
		}
	}
	return lone
}

func (p *Pods) mirrorCount() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return len(p.mirrors)
}
