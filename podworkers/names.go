package podworkers

import (
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
	if !held {
		holder = ws.endingPredecessor(name, pod.UID)
	}
	if holder == "" {
		ws.names[name] = pod.UID
	}
	ws.mu.Unlock()
	switch {
	case holder == pod.UID:
		return ""
	case holder != "":
		return holder
	}
	predecessor := ws.unknownPredecessor(pod)
	if predecessor == "" {
		return ""
	}
	ws.mu.Lock()
	ws.names[name] = predecessor
	ws.mu.Unlock()
	klog.FromContext(ctx).Info("An earlier pod of this name still runs, ending it first", "predecessorUID", predecessor)
	ws.EndOrphan(ctx, predecessor)
	return predecessor
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

// unknownPredecessor finds a pod with the same full name that runs, or holds addresses and host ports, but has no worker.
func (ws *Workers) unknownPredecessor(pod *corev1.Pod) types.UID {
	for _, uid := range ws.opts.Cache.UIDs() {
		if uid == pod.UID || ws.worker(uid) != nil {
			continue
		}
		s, ok := ws.opts.Cache.Get(uid)
		if ok && s.Namespace == pod.Namespace && s.Name == pod.Name && !ws.opts.Runtime.Ended(s) {
			return uid
		}
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
	for _, w := range ws.byUID {
		if w.name == name {
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
