package stats

import (
	"context"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// volumeDir is the directory of a kind of volume, and whether it is memory, of which huge pages are a kind and not the node's
// disk.
func volumeDir(v *corev1.Volume) (plugin string, memory bool) {
	switch {
	case v.EmptyDir != nil:
		return "empty-dir", v.EmptyDir.Medium != corev1.StorageMediumDefault
	case v.ConfigMap != nil:
		return "configmap", false
	case v.Secret != nil:
		return "secret", true
	case v.DownwardAPI != nil:
		return "downward-api", true
	case v.Projected != nil:
		return "projected", true
	}
	return "", false // the host's, or the runtime's
}

// volumes tells what each of the pod's volumes holds.
//
// Upstream: pkg/kubelet/server/stats/volume_stat_calculator.go
func (p *Provider) volumes(ctx context.Context, pod *corev1.Pod) []statsapi.VolumeStats {
	if p.opts.NoVolumes {
		return nil
	}
	var out []statsapi.VolumeStats
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		plugin, memory := volumeDir(v)
		if plugin == "" {
			if stats := p.foreign(ctx, pod, v); stats != nil {
				out = append(out, *stats)
			}
			continue
		}
		dir := filepath.Join(p.podDir(string(pod.UID)), "volumes", "kubernetes.io~"+plugin, v.Name)
		state := filesystem(ctx, dir)
		if state != nil && !memory {
			state = p.directory(ctx, dir, state)
		}
		if state != nil {
			out = append(out, statsapi.VolumeStats{Name: v.Name, FsStats: *state})
		}
	}
	return out
}

// ephemeral is what the pod takes of the node's disk: its containers' layers and logs, its volumes that are there, and its
// hosts file. It is as old as the oldest of these.
func (p *Provider) ephemeral(pod *statsapi.PodStats, spec *corev1.Pod, on *statsapi.FsStats) *statsapi.FsStats {
	sum := used{at: time.Now()}
	add := func(f *statsapi.FsStats) {
		if f != nil && f.UsedBytes != nil {
			sum.bytes += *f.UsedBytes
		}
		if f != nil && f.InodesUsed != nil {
			sum.inodes += *f.InodesUsed
		}
		if f != nil && !f.Time.IsZero() && f.Time.Time.Before(sum.at) {
			sum.at = f.Time.Time
		}
	}
	for i := range pod.Containers {
		add(pod.Containers[i].Rootfs)
		add(pod.Containers[i].Logs)
	}
	onDisk := map[string]bool{}
	if spec != nil {
		for i := range spec.Spec.Volumes {
			plugin, memory := volumeDir(&spec.Spec.Volumes[i])
			onDisk[spec.Spec.Volumes[i].Name] = plugin != "" && !memory
		}
	}
	for i := range pod.VolumeStats {
		if onDisk[pod.VolumeStats[i].Name] {
			add(&pod.VolumeStats[i].FsStats)
		}
	}
	var hosts unix.Stat_t
	if unix.Lstat(filepath.Join(p.podDir(pod.PodRef.UID), "etc-hosts"), &hosts) == nil {
		sum.bytes += uint64(hosts.Blocks) * 512
		sum.inodes++
	}
	return onFilesystem(sum, on)
}

// Collector is what /metrics shows of disks: kubelet_volume_stats_* of volumes that belong to a persistent volume
// claim, and what containers' logs take.
func (p *Provider) Collector() prometheus.Collector { return volumeCollector{p} }

// collectorPatience is how long a scrape waits for disks to be looked at; then it shows what is known.
const collectorPatience = 2 * time.Second

type volumeCollector struct{ provider *Provider }

func volumeDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("kubelet_volume_stats_"+name, help, []string{"namespace", "persistentvolumeclaim"}, nil)
}

var (
	volumeCapacity   = volumeDesc("capacity_bytes", "Bytes the volume can hold.")
	volumeAvailable  = volumeDesc("available_bytes", "Bytes the volume has left.")
	volumeUsed       = volumeDesc("used_bytes", "Bytes used in the volume.")
	volumeInodes     = volumeDesc("inodes", "Inodes the volume can hold.")
	volumeInodesFree = volumeDesc("inodes_free", "Inodes the volume has left.")
	volumeInodesUsed = volumeDesc("inodes_used", "Inodes used in the volume.")
	logsUsed         = prometheus.NewDesc("kubelet_container_log_filesystem_used_bytes", "Bytes that the container's logs take.", []string{"uid", "namespace", "pod", "container"}, nil)
)

// Describe implements prometheus.Collector.
func (volumeCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{volumeCapacity, volumeAvailable, volumeUsed, volumeInodes, volumeInodesFree, volumeInodesUsed, logsUsed} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c volumeCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectorPatience)
	defer cancel()
	latest, err := c.provider.snapshot(ctx, false)
	if err != nil {
		c.provider.mu.Lock()
		latest = c.provider.latest[false]
		c.provider.mu.Unlock()
	}
	if latest == nil {
		return
	}
	for i := range latest.Pods {
		pod := &latest.Pods[i]
		for j := range pod.Containers {
			if logs := pod.Containers[j].Logs; logs != nil {
				sink(out).gauge(logsUsed, time.Time{}, logs.UsedBytes, pod.PodRef.UID, pod.PodRef.Namespace, pod.PodRef.Name, pod.Containers[j].Name)
			}
		}
	}
	seen := map[statsapi.PVCReference]bool{} // of several pods that use it one is enough
	for i := range latest.Pods {
		for _, v := range latest.Pods[i].VolumeStats {
			if v.PVCRef == nil || seen[*v.PVCRef] {
				continue
			}
			seen[*v.PVCRef] = true
			for desc, n := range map[*prometheus.Desc]*uint64{
				volumeCapacity: v.CapacityBytes, volumeAvailable: v.AvailableBytes, volumeUsed: v.UsedBytes,
				volumeInodes: v.Inodes, volumeInodesFree: v.InodesFree, volumeInodesUsed: v.InodesUsed,
			} {
				if n != nil {
					out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(*n), v.PVCRef.Namespace, v.PVCRef.Name)
				}
			}
		}
	}
}
