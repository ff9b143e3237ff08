package kubelet

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"minikubelet/kubelet/eviction"
	"minikubelet/kubelet/settings"
	"minikubelet/podworkers"
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
		Settings: s, CRI: k.cri, Events: events, Node: k.node.Ref(), Registerer: registry,
		PodsDir: filepath.Join(s.RootDir, "pods"), PodLogsDir: s.PodLogsDir,
		ActivePods: func() []*corev1.Pod { return activePods(pods, workers) },
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

// activePods are the pods that may use the node's resources.
//
// Upstream: pkg/kubelet/kubelet_pods.go GetActivePods.
func activePods(pods *syncloop.Pods, workers *podworkers.Workers) []*corev1.Pod {
	return slices.DeleteFunc(pods.All(), func(pod *corev1.Pod) bool {
		phase, known := workers.Phase(pod.UID)
		return !known || phase >= podworkers.Terminated
	})
}
