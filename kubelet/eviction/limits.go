package eviction

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
)

// isolated tells whether a pod has a limit of its own for what it keeps on the node's disk.
func isolated(pod *corev1.Pod) bool {
	if _, limited := podLimit(pod); limited {
		return true
	}
	for i := range pod.Spec.Volumes {
		if _, limited := sizeLimit(&pod.Spec.Volumes[i]); limited {
			return true
		}
	}
	return false
}

// podLimit is the limit of all containers together, of those that have one.
func podLimit(pod *corev1.Pod) (limit resource.Quantity, limited bool) {
	limit, limited = resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]
	return limit, limited
}

func sizeLimit(v *corev1.Volume) (limit int64, limited bool) {
	if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
		return 0, false
	}
	return v.EmptyDir.SizeLimit.Value(), true
}

// overLimit tells in upstream's words which limit of its own the pod exceeds, and names it for the metric; "" for none. The
// writable layers count for the pod's limit on whichever filesystem they are, and for a container's where images have no
// filesystem of their own. It is pure.
//
// Upstream: pkg/kubelet/eviction/eviction_manager.go localStorageEviction.
func overLimit(pod *corev1.Pod, u *podUsage, l layout) (message, signal string) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if limit, limited := sizeLimit(v); limited && u.volumes[v.Name].bytes > limit {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String()), "emptydirfs.limit"
		}
	}
	total := u.disk(contents{rootfs: true, logs: true, volumes: true})
	total.add(u.host)
	if limit, limited := podLimit(pod); limited && total.bytes > limit.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String()), "ephemeralpodfs.limit"
	}
	for container := range podinfo.Containers(pod) {
		limit := container.Resources.Limits.StorageEphemeral()
		if limit.IsZero() || !podinfo.IsRegular(pod, container.Name) && !podinfo.IsSidecar(container) {
			continue
		}
		for _, used := range u.containers {
			if used.name == container.Name && used.disk(contents{rootfs: !l.imageFs, logs: true}).bytes > limit.Value() {
				return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", used.name, limit.String()), "ephemeralcontainerfs.limit"
			}
		}
	}
	return "", ""
}

// watchLimits looks every 10 seconds at the pods that have limits of their own.
func (m *Manager) watchLimits(ctx context.Context, places *observer) {
	tick := time.NewTicker(monitoringPeriod)
	defer tick.Stop()
	for {
		m.enforceLimits(ctx, places)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// enforceLimits ends the pods that keep more on the node's disk than they may.
func (m *Manager) enforceLimits(ctx context.Context, places *observer) {
	due := slices.DeleteFunc(m.candidates(), func(pod *corev1.Pod) bool { return !isolated(pod) })
	if len(due) == 0 {
		return
	}
	disks, err := places.disks(ctx, observations{})
	if err != nil {
		klog.FromContext(ctx).Error(err, "Eviction: a filesystem cannot be observed")
		return
	}
	used := m.usages(ctx, due, true)
	for _, pod := range due {
		u := used[pod.UID]
		if u == nil || ctx.Err() != nil {
			continue
		}
		if message, signal := overLimit(pod, u, disks); message != "" {
			m.evict(ctx, Eviction{Pod: pod, GracePeriod: new(immediately), Message: message}, nil, signal)
		}
	}
}
