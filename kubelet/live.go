package kubelet

import (
	"minikubelet/kubelet/eviction"
	"minikubelet/kubelet/live"
	"minikubelet/kubelet/settings"
	"minikubelet/runtime/images"
	"minikubelet/runtime/logs"
)

// newReloader makes what follows the configuration files and hands their owners what changes.
func newReloader(b *base, c *core, evictions *eviction.Manager, collector *images.Collector, rotator *logs.Rotator) *live.Reloader {
	return live.New(live.Options{
		Settings: b.settings, Events: b.events, Node: c.node.Ref(),
		Apply: func(s *settings.Settings) error {
			size, err := settings.ContainerLogMaxSize(&s.KubeletConfiguration)
			if err != nil {
				return err
			}
			rotator.Reconfigure(size, int(*s.ContainerLogMaxFiles))
			evictions.Reconfigure(s)
			collector.Reconfigure(imageLimits(s))
			return settings.SetVerbosity(&s.KubeletConfiguration)
		},
	})
}
