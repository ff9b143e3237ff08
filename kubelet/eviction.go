package kubelet

import (
	"context"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/kubelet/eviction"
	"minikubelet/kubelet/shutdown"
	"minikubelet/podworkers"
	"minikubelet/runtime/images"
	"minikubelet/status"
)

// newEviction makes what ends pods when the node is short of a resource.
func newEviction(b *base, c *core, collector *images.Collector) *eviction.Manager {
	s := b.settings
	o := eviction.Options{
		Settings: s, CRI: b.cri, Events: b.events, Node: c.node.Ref, Registerer: b.metrics.main, Machine: b.machine, Disk: b.disk,
		PodsDir: filepath.Join(s.RootDir, "pods"), PodLogsDir: s.PodLogsDir,
		ActivePods: c.activePods,
		Kill: func(_ context.Context, e eviction.Eviction) {
			c.fail(e.Pod, e.GracePeriod, eviction.Reason, e.Message, e.Condition)
		},
		Cleaned: c.workers.Cleaned, SetPressure: c.node.SetPressure,
		DeleteUnusedContainers: func(ctx context.Context) error {
			return c.runtime.DeleteUnusedContainers(ctx, func(uid types.UID) bool {
				phase, known := c.workers.Phase(uid)
				return known && phase == podworkers.Finished
			})
		},
		DeleteUnusedImages: collector.DeleteUnusedImages,
	}
	if *s.CgroupsPerQOS {
		o.PodUsage = func(pod *corev1.Pod) (workingSet, processes int64, err error) {
			if workingSet, _, err = b.machine.WorkingSet(c.cgroups.PodCgroup(pod)); err != nil {
				return 0, 0, err
			}
			return workingSet, int64(b.machine.Stats(c.cgroups.PodCgroup(pod)).PidsStats.Current), nil
		}
		if slices.Contains(s.EnforceNodeAllocatable, "pods") {
			o.PodsMemory = func() (workingSet, limit int64, err error) { return b.machine.WorkingSet(c.cgroups.PodsCgroup()) }
		}
	}
	return eviction.New(o)
}

// newShutdown makes what ends pods before the machine goes down; nil where pods get no time for that.
func newShutdown(b *base, c *core) *shutdown.Manager {
	return shutdown.New(shutdown.Options{
		Settings: b.settings, Events: b.events, Node: c.node.Ref,
		ActivePods: c.activePods,
		Kill: func(pod *corev1.Pod, gracePeriod int64) {
			c.fail(pod, &gracePeriod, shutdown.Reason, shutdown.Message, &corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: shutdown.Message,
			})
		},
		Cleaned: c.workers.Cleaned, SetShuttingDown: c.node.SetShuttingDown,
	})
}

// fail ends a pod and gives it phase Failed; condition may be nil.
func (c *core) fail(pod *corev1.Pod, gracePeriod *int64, reason, message string, condition *corev1.PodCondition) {
	c.workers.Kill(pod.UID, podworkers.Kill{GracePeriod: gracePeriod, Override: &status.Override{
		Phase: corev1.PodFailed, Reason: reason, Message: message, Condition: condition,
	}})
}

// activePods returns the pods that may use the node's resources: all but those that have ended. The phase that the
// apiserver has counts as well, since a kubelet that has just started may not have looked at an ended pod yet.
//
// Upstream: pkg/kubelet/kubelet_pods.go GetActivePods, filterOutInactivePods.
func (c *core) activePods() []*corev1.Pod {
	ended := func(s corev1.PodStatus) bool { return s.Phase == corev1.PodSucceeded || s.Phase == corev1.PodFailed }
	return slices.DeleteFunc(c.pods.All(), func(pod *corev1.Pod) bool {
		phase, known := c.workers.Phase(pod.UID)
		newest, _ := c.status.Get(pod.UID)
		return !known || phase >= podworkers.Terminated || ended(pod.Status) || ended(newest)
	})
}
