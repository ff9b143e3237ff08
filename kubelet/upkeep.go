package kubelet

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"minikubelet/kubelet/eviction"
	"minikubelet/kubelet/settings"
	"minikubelet/kubelet/shutdown"
	"minikubelet/podworkers"
	"minikubelet/podworkers/volumes"
	"minikubelet/runtime"
	"minikubelet/runtime/images"
	"minikubelet/runtime/logs"
	"minikubelet/status"
	"minikubelet/syncloop"
)

// newCollector makes what removes images that nothing uses.
func newCollector(k *Kubelet, pulled <-chan struct{}, events record.EventRecorder) *images.Collector {
	s := k.settings
	return images.NewCollector(images.CollectorOptions{
		CRI: k.cri, Events: events, Node: k.node.Ref(), Pulled: pulled,
		HighThresholdPercent: int(*s.ImageGCHighThresholdPercent), LowThresholdPercent: int(*s.ImageGCLowThresholdPercent),
		MinAge: s.ImageMinimumGCAge.Duration, MaxAge: s.ImageMaximumGCAge.Duration,
	})
}

// newRotator makes what rotates the logs of containers; nil if a negative size turns that off.
func newRotator(k *Kubelet) *logs.Rotator {
	s := k.settings
	size, err := settings.ContainerLogMaxSize(&s.KubeletConfiguration)
	if err != nil || size < 0 {
		return nil
	}
	return logs.New(logs.Options{
		CRI: k.cri, PodLogsDir: s.PodLogsDir, MaxSize: size, MaxFiles: int(*s.ContainerLogMaxFiles),
		Workers: int(*s.ContainerLogMaxWorkers), Interval: s.ContainerLogMonitorInterval.Duration,
	})
}

// newEviction makes what ends pods when the node is short of a resource.
func newEviction(k *Kubelet, pods *syncloop.Pods, workers *podworkers.Workers, rt *runtime.Runtime, collector *images.Collector, events record.EventRecorder, registry prometheus.Registerer) *eviction.Manager {
	s := k.settings
	o := eviction.Options{
		Settings: s, CRI: k.cri, Events: events, Node: k.node.Ref(), Registerer: registry, Disk: k.disk,
		PodsDir: filepath.Join(s.RootDir, "pods"), PodLogsDir: s.PodLogsDir,
		ActivePods: func() []*corev1.Pod { return activePods(pods, workers, k.status) },
		Kill: func(_ context.Context, e eviction.Eviction) {
			workers.Kill(e.Pod.UID, podworkers.Kill{GracePeriod: e.GracePeriod, Override: &status.Override{
				Phase: corev1.PodFailed, Reason: eviction.Reason, Message: e.Message, Condition: e.Condition,
			}})
		},
		Cleaned: workers.Cleaned, SetPressure: k.node.SetPressure,
		DeleteUnusedContainers: func(ctx context.Context) error {
			return rt.DeleteUnusedContainers(ctx, func(uid types.UID) bool {
				phase, known := workers.Phase(uid)
				return known && phase == podworkers.Finished
			})
		},
		DeleteUnusedImages: collector.DeleteUnusedImages,
	}
	if *s.CgroupsPerQOS {
		o.PodUsage = k.cgroups.PodUsage
		if slices.Contains(s.EnforceNodeAllocatable, "pods") {
			o.PodsMemory = k.cgroups.PodsMemory
		}
	}
	return eviction.New(o)
}

// newShutdown makes what ends pods before the machine goes down; nil where pods get no time for that.
func newShutdown(k *Kubelet, pods *syncloop.Pods, workers *podworkers.Workers, events record.EventRecorder, registry prometheus.Registerer) *shutdown.Manager {
	return shutdown.New(shutdown.Options{
		Settings: k.settings, Events: events, Node: k.node.Ref(), Registerer: registry,
		ActivePods: func() []*corev1.Pod { return activePods(pods, workers, k.status) },
		Kill: func(pod *corev1.Pod, gracePeriod int64) {
			workers.Kill(pod.UID, podworkers.Kill{GracePeriod: &gracePeriod, Override: &status.Override{
				Phase: corev1.PodFailed, Reason: shutdown.Reason, Message: shutdown.Message, Condition: &corev1.PodCondition{
					Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: shutdown.Message,
				},
			}})
		},
		Cleaned: workers.Cleaned, SetShuttingDown: k.node.SetShuttingDown,
	})
}

// newCleaner makes what removes the leftovers of pods: containers, sandboxes, logs, cgroups, directories.
//
// Upstream: pkg/kubelet/kubelet.go StartGarbageCollection, pkg/kubelet/kubelet_pods.go HandlePodCleanups.
func newCleaner(k *Kubelet, rt *runtime.Runtime, vols *volumes.Manager, events record.EventRecorder) func(context.Context, func(types.UID) bool) error {
	return func(ctx context.Context, known func(types.UID) bool) error {
		err := rt.GarbageCollect(ctx, known)
		if err != nil && ctx.Err() == nil {
			events.Event(k.node.Ref(), corev1.EventTypeWarning, "ContainerGCFailed", err.Error())
		}
		return errors.Join(err, vols.RemoveOrphans(ctx, func(uid types.UID) bool {
			_, inRuntime := rt.Cache.Get(uid) // a worker will end it
			return known(uid) || inRuntime
		}))
	}
}

// activePods are the pods that may use the node's resources: not those that have ended, of which a kubelet that has just
// started may still be taking note.
//
// Upstream: pkg/kubelet/kubelet_pods.go GetActivePods, filterOutInactivePods.
func activePods(pods *syncloop.Pods, workers *podworkers.Workers, statuses *status.Manager) []*corev1.Pod {
	ended := func(s corev1.PodStatus) bool { return s.Phase == corev1.PodSucceeded || s.Phase == corev1.PodFailed }
	return slices.DeleteFunc(pods.All(), func(pod *corev1.Pod) bool {
		phase, known := workers.Phase(pod.UID)
		newest, _ := statuses.Get(pod.UID)
		return !known || phase >= podworkers.Terminated || ended(pod.Status) || ended(newest)
	})
}
