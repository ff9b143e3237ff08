package syncloop

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers"
	"minikubelet/runtime/cri"
)

// housekeeping ends what runs without being wanted.
//
// Upstream: pkg/kubelet/kubelet_pods.go HandlePodCleanups.
func (l *Loop) housekeeping(ctx context.Context) {
	l.metrics.count(l.Pods.All(), l.active(), l.Pods.mirrorCount())
	l.endOrphans(ctx)
	l.bindMirrors()
	l.deleteLoneMirrors(ctx)
	l.updateQOS(ctx)
	l.admitRefused(ctx)
	if time.Since(l.lastResize) >= retryResizes {
		l.resizePods(ctx)
	}
	if time.Since(l.lastGC) >= cleanPeriod && l.Config.AllReady() && l.cleaning.CompareAndSwap(false, true) {
		l.lastGC = time.Now()
		go l.clean(ctx)
	}
}

// updateQOS gives burstable pods together the share of CPU that they ask for together. It costs a sum, and a write to a
// cgroup when that has changed: with the systemd driver systemd does that, which may not answer, so the loop does not wait.
func (l *Loop) updateQOS(ctx context.Context) {
	if l.UpdateQOS == nil || !l.Config.AllReady() || !l.updatingQOS.CompareAndSwap(false, true) {
		return
	}
	active := l.active()
	go func() {
		defer l.updatingQOS.Store(false)
		if err := l.UpdateQOS(active); err != nil {
			klog.FromContext(ctx).Error(err, "Setting the CPU shares of burstable pods failed, will be retried")
		}
	}()
}

// cleanPeriod is how often dead containers and leftover directories are collected.
const cleanPeriod = time.Minute

func (l *Loop) clean(ctx context.Context) {
	defer l.cleaning.Store(false)
	known := func(uid types.UID) bool {
		_, wanted := l.Pods.Get(uid)
		_, working := l.Workers.Phase(uid)
		return wanted || working
	}
	if err := l.Clean(ctx, known); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Cleaning up after ended pods failed, will be retried")
	}
}

// endOrphans ends pods that run although their source, which is ready, does not have them, or that were ended already.
func (l *Loop) endOrphans(ctx context.Context) {
	for _, uid := range l.PLEG.Cache.UIDs() {
		observed, ok := l.PLEG.Cache.Get(uid)
		phase, working := l.Workers.Phase(uid)
		if working && phase == podworkers.Finished && !observed.Gone() {
			l.Workers.Poke(uid, "something of it runs although it was ended")
		}
		if _, wanted := l.Pods.Get(uid); wanted || working || !ok || !l.sourceReady(observed) {
			continue
		}
		klog.FromContext(ctx).Info("Ending a pod that no source has", "podUID", uid, "pod", klog.KRef(observed.Namespace, observed.Name))
		l.Workers.EndOrphan(ctx, uid)
	}
}

// sourceReady tells whether the source that once gave the pod is ready, so that a pod which it does not have is unwanted. Sandboxes
// carry their pod's annotations.
func (l *Loop) sourceReady(observed *cri.PodStatus) bool {
	for _, sandbox := range observed.Sandboxes {
		if source := sandbox.Annotations[podinfo.SourceAnnotation]; source != "" {
			return l.Config.SourceReady(source)
		}
	}
	return l.Config.AllReady()
}
