package syncloop

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"minikubelet/config"
	"minikubelet/runtime/cri"
)

// housekeeping ends what runs without being wanted.
//
// Upstream: pkg/kubelet/kubelet_pods.go HandlePodCleanups.
func (l *Loop) housekeeping(ctx context.Context) {
	l.metrics.count(l.Pods.All(), l.active(), l.Pods.mirrorCount())
	l.endOrphans(ctx)
	l.deleteLoneMirrors(ctx)
	if time.Since(l.lastGC) >= cleanPeriod && l.Config.SeenAll() && l.cleaning.CompareAndSwap(false, true) {
		l.lastGC = time.Now()
		go l.clean(ctx)
	}
}

// cleanPeriod is how often dead containers and leftover directories are collected.
//
// Upstream: pkg/kubelet/kubelet.go ContainerGCPeriod.
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

// endOrphans ends pods that run although their source, having synced, does not have them.
func (l *Loop) endOrphans(ctx context.Context) {
	for _, uid := range l.Cache.UIDs() {
		if _, wanted := l.Pods.Get(uid); wanted {
			continue
		}
		if _, working := l.Workers.Phase(uid); working {
			continue
		}
		observed, ok := l.Cache.Get(uid)
		if !ok || !l.sourceSynced(observed) {
			continue
		}
		klog.FromContext(ctx).Info("Ending a pod that no source has", "podUID", uid, "pod", klog.KRef(observed.Namespace, observed.Name))
		l.Workers.EndOrphan(ctx, uid)
	}
}

// deleteLoneMirrors deletes mirror pods whose static pod is gone.
func (l *Loop) deleteLoneMirrors(ctx context.Context) {
	if l.Mirror == nil || !l.Config.SeenAll() {
		return
	}
	lone := l.Pods.LoneMirrors()
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

// sourceSynced tells whether the source that once gave the pod has synced, so that its
// silence means the pod is unwanted. Sandboxes carry their pod's annotations.
func (l *Loop) sourceSynced(observed *cri.PodStatus) bool {
	for _, sandbox := range observed.Sandboxes {
		if source := sandbox.Annotations[config.SourceAnnotation]; source != "" {
			return l.Config.SourceReady(source)
		}
	}
	return l.Config.SeenAll()
}
