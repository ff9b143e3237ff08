package kubelet

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"minikubelet/kubelet/metrics"
	"minikubelet/kubelet/stats"
)

// registries hold the metrics: those of /metrics, of /metrics/probes and of /metrics/slis.
type registries struct{ main, probes, slis *prometheus.Registry }

func (r registries) handler() http.Handler { return metrics.Handler(r.main) }

// measure makes what tells of the node's and the pods' use of resources.
func (k *Kubelet) measure() error {
	s := k.settings
	metrics.Register(k.metrics.main, metrics.Options{NodeName: s.NodeName, Version: s.Version})
	metrics.StartTime(k.metrics.probes)
	metrics.StartTime(k.metrics.slis)
	var err error
	k.stats, err = stats.New(stats.Options{
		CRI: k.cri, NodeName: s.NodeName, RootDir: s.RootDir, PodLogsDir: s.PodLogsDir, Endpoint: s.RuntimeSocket(),
		Pods: k.loop.Pods.All, PodCgroup: k.cgroups.PodCgroup, PodsCgroup: k.cgroups.PodsCgroup, Disk: k.disk,
		KubeletCgroup: s.KubeletCgroups, RuntimeCgroup: s.RuntimeCgroups,
	})
	if err != nil {
		return err
	}
	k.runs = append(k.runs, k.stats.Run)
	return k.metrics.main.Register(k.stats.Collector())
}
