package podworkers

import (
	"cmp"
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
)

// claim gives a static pod its full name, or returns the UID of the pod that still has the name. A pod that only the runtime
// knows has its name as well; it gets a worker that ends it. Pods of the apiserver never wait: it accepts a name again only
// when the pod before is gone, or was given up by force. ctx is that of the workers, which outlive a step.
//
// Upstream: pkg/kubelet/pod_workers.go allowStaticPodStart.
func (ws *Workers) claim(ctx context.Context, pod *corev1.Pod) (holder types.UID) {
	if !podinfo.IsStatic(pod) {
		return ""
	}
	name := podinfo.FullName(pod)
	ws.mu.Lock()
	holder, held := ws.names[name]
	unknown := false
	if !held {
		if holder = ws.endingPredecessor(name, pod.UID); holder == "" {
			holder = ws.endUnknownPredecessor(ctx, pod)
			unknown = holder != ""
		}
		ws.names[name] = cmp.Or(holder, pod.UID)
	}
	ws.mu.Unlock()
	if unknown {
		klog.FromContext(ctx).Info("An earlier pod of this name still runs, ending it first", "predecessorUID", holder)
	}
	if holder == pod.UID {
		return ""
	}
	return holder
}

// endingPredecessor finds another pod of this name that is being stopped. A pod that had to end from its first step
// never claimed its name, but may run since before the kubelet started: one that only the runtime knew, one that was
// rejected, one whose manifest went at once. Callers hold mu.
func (ws *Workers) endingPredecessor(name string, successor types.UID) types.UID {
	for uid, w := range ws.byUID {
		if w.name == name && uid != successor && w.isBeingStopped() {
			return uid
		}
	}
	return ""
}

// endUnknownPredecessor ends a pod with the same full name that runs, or holds addresses and host ports, but has no worker. It
// returns its UID. The pod gets its worker before mu is free: nothing else can end it before it has the name. Callers hold mu.
func (ws *Workers) endUnknownPredecessor(ctx context.Context, pod *corev1.Pod) types.UID {
	for _, uid := range ws.opts.Cache.UIDs() {
		observed, ok := ws.opts.Cache.Get(uid)
		if !ok || uid == pod.UID || ws.byUID[uid] != nil || observed.Namespace != pod.Namespace || observed.Name != pod.Name || ws.opts.Runtime.Ended(observed) {
			continue
		}
		ws.endOrphan(ctx, observed)
		return uid
	}
	return ""
}

// release takes the name back from a pod that has stopped, and wakes the pods that wait for it.
func (ws *Workers) release(name string, uid types.UID) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.names[name] == uid {
		delete(ws.names, name)
	}
	for other, w := range ws.byUID {
		if w.name == name && other != uid {
			w.poke("the pod that had its name is stopped")
		}
	}
}

// isBeingStopped tells whether the pod ends and something of it may still run.
func (w *worker) isBeingStopped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.killRequested() && w.phase < Terminated
}
