package stats

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/procfs"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"minikubelet/kubelet/measure"
	"minikubelet/runtime/cri"
)

// criPod is a pod that runs: its ready sandbox, its running containers, and what the runtime says they use.
type criPod struct {
	sandbox    *runtimeapi.PodSandbox
	containers []criContainer
	stats      *runtimeapi.LinuxPodSandboxStats // nil where the runtime has none
	devices    procfs.NetDev                    // its interfaces, where the runtime tells nothing of them
}

type criContainer struct {
	*runtimeapi.Container
	stats *runtimeapi.ContainerStats // nil where the runtime has none
}

// readCRI asks the runtime for everything: two lists, and one of statistics, or two with a runtime that knows none of
// whole pods. Statistics that are not to be had are left to the cgroups; without the lists there is an error.
//
// Upstream: pkg/kubelet/stats/cri_stats_provider.go listPodStats, getPodAndContainerMaps
func (p *Provider) readCRI(ctx context.Context) ([]*criPod, error) {
	client := p.opts.CRI.Runtime
	sandboxes, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	pods, bySandbox := newestSandboxes(sandboxes.Items)
	used := p.containerStats(ctx, bySandbox)
	for _, c := range containers.Containers {
		if pod := bySandbox[c.GetPodSandboxId()]; pod != nil && c.GetMetadata() != nil {
			pod.containers = append(pod.containers, criContainer{c, used[c.Id]})
		}
	}
	return pods, nil
}

// newestSandboxes leaves one sandbox per pod, if the runtime should have more that are ready.
func newestSandboxes(all []*runtimeapi.PodSandbox) (pods []*criPod, bySandbox map[string]*criPod) {
	newest := map[string]*runtimeapi.PodSandbox{}
	for _, s := range all {
		uid := s.GetMetadata().GetUid()
		if uid == "" {
			continue // not made by a kubelet
		}
		if other := newest[uid]; other == nil || cri.Newer(s.GetMetadata().GetAttempt(), other.GetMetadata().GetAttempt(), s.CreatedAt, other.CreatedAt) < 0 {
			newest[uid] = s
		}
	}
	bySandbox = map[string]*criPod{}
	for _, s := range all {
		if s != nil && newest[s.GetMetadata().GetUid()] == s {
			pod := &criPod{sandbox: s}
			pods, bySandbox[s.Id] = append(pods, pod), pod
		}
	}
	return pods, bySandbox
}

// containerStats gives each pod its statistics and returns those of containers, by ID.
func (p *Provider) containerStats(ctx context.Context, bySandbox map[string]*criPod) map[string]*runtimeapi.ContainerStats {
	out := map[string]*runtimeapi.ContainerStats{}
	answer, err := p.opts.CRI.Runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
	if err == nil {
		for _, s := range answer.Stats {
			if pod := bySandbox[s.GetAttributes().GetId()]; pod != nil {
				pod.stats = s.GetLinux()
			}
			for _, c := range s.GetLinux().GetContainers() {
				out[c.GetAttributes().GetId()] = c
			}
		}
		return out
	}
	klog.FromContext(ctx).V(4).Info("The runtime has no statistics of pods", "err", err)
	single, err := p.opts.CRI.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
	if err != nil {
		klog.FromContext(ctx).V(2).Info("The runtime has no statistics, the cgroups have to do", "err", err)
		return out
	}
	for _, c := range single.Stats {
		out[c.GetAttributes().GetId()] = c
	}
	return out
}

func at(nanos int64) metav1.Time {
	if nanos <= 0 {
		return metav1.Now()
	}
	return metav1.NewTime(time.Unix(0, nanos))
}

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

// criCPU converts; nil without a count of time, which is what matters.
func criCPU(c *runtimeapi.CpuUsage) *statsapi.CPUStats {
	if c.GetUsageCoreNanoSeconds() == nil {
		return nil
	}
	return &statsapi.CPUStats{Time: at(c.Timestamp), UsageCoreNanoSeconds: value(c.UsageCoreNanoSeconds), UsageNanoCores: value(c.UsageNanoCores), PSI: criPSI(c.Psi)}
}

// criMemory converts; nil without a working set, which is what matters.
func criMemory(m *runtimeapi.MemoryUsage) *statsapi.MemoryStats {
	if m.GetWorkingSetBytes() == nil {
		return nil
	}
	out := &statsapi.MemoryStats{
		Time: at(m.Timestamp), AvailableBytes: value(m.AvailableBytes), UsageBytes: value(m.UsageBytes), WorkingSetBytes: value(m.WorkingSetBytes),
		RSSBytes: value(m.RssBytes), PageFaults: value(m.PageFaults), MajorPageFaults: value(m.MajorPageFaults), PSI: criPSI(m.Psi),
	}
	if n := out.AvailableBytes; n != nil && (!measure.Limited(*n) || *n == 0) {
		out.AvailableBytes = nil // no limit, in containerd's words
	}
	return out
}

func criSwap(s *runtimeapi.SwapUsage) *statsapi.SwapStats {
	if s.GetSwapUsageBytes() == nil {
		return nil
	}
	return &statsapi.SwapStats{Time: at(s.Timestamp), SwapUsageBytes: value(s.SwapUsageBytes), SwapAvailableBytes: value(s.SwapAvailableBytes)}
}

func criIO(i *runtimeapi.IoUsage) *statsapi.IOStats {
	if i.GetPsi() == nil {
		return nil
	}
	return &statsapi.IOStats{Time: at(i.Timestamp), PSI: criPSI(i.Psi)}
}

func criPSI(p *runtimeapi.PsiStats) *statsapi.PSIStats {
	if p == nil {
		return nil
	}
	data := func(d *runtimeapi.PsiData) statsapi.PSIData {
		return statsapi.PSIData{Total: d.GetTotal(), Avg10: d.GetAvg10(), Avg60: d.GetAvg60(), Avg300: d.GetAvg300()}
	}
	return &statsapi.PSIStats{Full: data(p.Full), Some: data(p.Some)}
}

// criNetwork converts; the default interface is the first of the list, too.
func criNetwork(n *runtimeapi.NetworkUsage) *statsapi.NetworkStats {
	if n.GetDefaultInterface() == nil {
		return nil
	}
	one := func(i *runtimeapi.NetworkInterfaceUsage) statsapi.InterfaceStats {
		return statsapi.InterfaceStats{Name: i.Name, RxBytes: value(i.RxBytes), RxErrors: value(i.RxErrors), TxBytes: value(i.TxBytes), TxErrors: value(i.TxErrors)}
	}
	out := &statsapi.NetworkStats{Time: at(n.Timestamp), InterfaceStats: one(n.DefaultInterface)}
	out.Interfaces = append(out.Interfaces, out.InterfaceStats)
	for _, i := range n.Interfaces {
		if i != nil && i.Name != n.DefaultInterface.Name {
			out.Interfaces = append(out.Interfaces, one(i))
		}
	}
	return out
}

// criFilesystem converts, and adds the state of the filesystem that the files are on.
func criFilesystem(f *runtimeapi.FilesystemUsage, state func(string) *statsapi.FsStats) *statsapi.FsStats {
	if f == nil {
		return nil
	}
	out := &statsapi.FsStats{Time: at(f.Timestamp), UsedBytes: value(f.UsedBytes), InodesUsed: value(f.InodesUsed)}
	if disk := state(f.GetFsId().GetMountpoint()); disk != nil {
		out.AvailableBytes, out.CapacityBytes, out.Inodes, out.InodesFree = disk.AvailableBytes, disk.CapacityBytes, disk.Inodes, disk.InodesFree
	}
	return out
}
