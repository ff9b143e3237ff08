package kubelet

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/kubelet/settings"
	"minikubelet/runtime/images"
	"minikubelet/runtime/logs"
)

// newImageCollector makes what removes images that no container uses.
func newImageCollector(b *base, c *core) *images.Collector {
	s := b.settings
	return images.NewCollector(images.CollectorOptions{
		CRI: b.cri, Events: b.events, Node: c.node.Ref, Pulled: c.pulled,
		Limits: imageLimits(s),
	})
}

func imageLimits(s *settings.Settings) images.Limits {
	return images.Limits{
		HighThresholdPercent: int(*s.ImageGCHighThresholdPercent), LowThresholdPercent: int(*s.ImageGCLowThresholdPercent),
		MinAge: s.ImageMinimumGCAge.Duration, MaxAge: s.ImageMaximumGCAge.Duration,
	}
}

// newRotator makes what rotates the logs of containers.
func newRotator(b *base) (*logs.Rotator, error) {
	s := b.settings
	size, err := settings.ContainerLogMaxSize(&s.KubeletConfiguration)
	if err != nil {
		return nil, fmt.Errorf("containerLogMaxSize: %w", err)
	}
	return logs.New(logs.Options{
		CRI: b.cri, PodLogsDir: s.PodLogsDir, MaxSize: size, MaxFiles: int(*s.ContainerLogMaxFiles),
		Workers: int(*s.ContainerLogMaxWorkers), Interval: s.ContainerLogMonitorInterval.Duration,
	}), nil
}

// newCleaner returns what removes the leftovers of pods: containers, sandboxes, logs, cgroups, directories.
//
// Upstream: pkg/kubelet/kubelet.go StartGarbageCollection, pkg/kubelet/kubelet_pods.go HandlePodCleanups.
func newCleaner(b *base, c *core) func(context.Context, func(types.UID) bool) error {
	return func(ctx context.Context, known func(types.UID) bool) error {
		err := c.runtime.GarbageCollect(ctx, known)
		if err != nil && ctx.Err() == nil {
			b.events.Event(c.node.Ref(), corev1.EventTypeWarning, "ContainerGCFailed", err.Error())
		}
		return errors.Join(err, c.volumes.RemoveOrphans(ctx, func(uid types.UID) bool {
			_, inRuntime := c.cache.Get(uid) // a worker will end it
			return known(uid) || inRuntime
		}))
	}
}
