package kubelet

import (
	"github.com/prometheus/client_golang/prometheus"

	"minikubelet/kubelet/metrics"
	"minikubelet/kubelet/settings"
	"minikubelet/kubelet/stats"
)

// registries hold the metrics: those of /metrics, of /metrics/probes and of /metrics/slis.
type registries struct{ main, probes, slis *prometheus.Registry }

func newRegistries(main *prometheus.Registry, s *settings.Settings) registries {
	r := registries{main, prometheus.NewRegistry(), prometheus.NewRegistry()}
	metrics.Register(r.main, metrics.Options{NodeName: s.NodeName, Version: s.Version})
	metrics.StartTime(r.probes)
	metrics.StartTime(r.slis)
	return r
}

// newStatistics makes what tells of the node's and the pods' use of resources.
func newStatistics(b *base, c *core) (*stats.Provider, error) {
	s := b.settings
	p := stats.New(stats.Options{
		CRI: b.cri, Machine: b.machine, NodeName: s.NodeName, RootDir: s.RootDir, PodLogsDir: s.PodLogsDir, Endpoint: s.RuntimeSocket(),
		Pods: c.pods.All, PodCgroup: c.cgroups.PodCgroup, PodsCgroup: c.cgroups.PodsCgroup, Disk: b.disk,
		KubeletCgroup: s.KubeletCgroups, RuntimeCgroup: s.RuntimeCgroups,
	})
	return p, b.metrics.main.Register(p.Collector())
}
