package kubelet

import (
	"minikubelet/kubelet/eviction"
	"minikubelet/kubelet/live"
	"minikubelet/kubelet/settings"
	"minikubelet/kubelet/shutdown"
	"minikubelet/runtime/images"
	"minikubelet/runtime/logs"
)

// newReloader makes what follows the configuration files and hands their owners what changes.
func newReloader(b *base, c *core, evictions *eviction.Manager, collector *images.Collector, rotator *logs.Rotator, shutdowns *shutdown.Manager) *live.Reloader {
	return live.New(live.Options{
		Settings: b.settings, Events: b.events, Node: c.node.Ref,
		Apply: func(s *settings.Settings) error {
			size, err := settings.ContainerLogMaxSize(&s.KubeletConfiguration)
			if err != nil {
				return err
			}
			rotator.Reconfigure(size, int(*s.ContainerLogMaxFiles))
			evictions.Reconfigure(s)
			collector.Reconfigure(imageLimits(s))
			c.node.Reconfigure(s)
			c.images.SetRate(float32(*s.RegistryPullQPS), int(s.RegistryBurst))
			c.runtime.SetCrashLoopMax(crashLoopMax(s))
			b.api.reconfigure(s)
			shutdowns.Reconfigure(s)
			return settings.SetVerbosity(&s.KubeletConfiguration)
		},
	})
}
