package kubelet

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"minikubelet/kubelet/metrics"
	"minikubelet/kubelet/settings"
	"minikubelet/kubelet/stats"
	"minikubelet/podworkers/csi"
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
		Volume: c.volumeOf, VolumeAge: s.VolumeStatsAggPeriod.Duration, NoVolumes: s.VolumeStatsAggPeriod.Duration <= 0,
		KubeletCgroup: s.KubeletCgroups, RuntimeCgroup: s.RuntimeCgroups,
	})
	return p, b.metrics.main.Register(p.Collector())
}

// volumeOf finds a pod's volume of a claim or a CSI driver, for the statistics.
func (c *core) volumeOf(pod *corev1.Pod, v *corev1.Volume) (stats.Volume, bool) {
	placed, ok := c.volumes.Placed(pod, v)
	if !ok {
		return stats.Volume{}, false
	}
	out := stats.Volume{Dir: placed.Dir, Claim: placed.Claim}
	if placed.Usage != nil {
		out.Usage = func(ctx context.Context) (*statsapi.FsStats, error) {
			u, err := placed.Usage(ctx)
			if errors.Is(err, csi.ErrNoStats) {
				return nil, nil // the file system is asked
			}
			if err != nil {
				return nil, err
			}
			return &statsapi.FsStats{
				CapacityBytes: u.Bytes.Total, UsedBytes: u.Bytes.Used, AvailableBytes: u.Bytes.Available,
				Inodes: u.Inodes.Total, InodesUsed: u.Inodes.Used, InodesFree: u.Inodes.Available,
			}, nil
		}
	}
	return out, true
}
