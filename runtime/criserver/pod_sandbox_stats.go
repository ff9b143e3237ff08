package criserver

import (
	"context"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/vishvananda/netlink"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/cni"
	"minikubelet/runtime/criserver/diskusage"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/stats"
)

// ListPodSandboxStats measures the pods that match a filter.
func (s *Server) ListPodSandboxStats(ctx context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: s.listSandboxStats(ctx, r.GetFilter())}, nil
}

// StreamPodSandboxStats is ListPodSandboxStats for answers of any length.
func (s *Server) StreamPodSandboxStats(r *runtimeapi.StreamPodSandboxStatsRequest, stream runtimeapi.RuntimeService_StreamPodSandboxStatsServer) error {
	return inPieces(s.listSandboxStats(stream.Context(), r.GetFilter()), func(part []*runtimeapi.PodSandboxStats) error {
		return stream.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: part})
	})
}

func (s *Server) listSandboxStats(ctx context.Context, filter *runtimeapi.PodSandboxStatsFilter) []*runtimeapi.PodSandboxStats {
	var found []*sandbox
	var containers []*container
	for _, item := range s.listSandboxes(&runtimeapi.PodSandboxFilter{Id: filter.GetId(), LabelSelector: filter.GetLabelSelector()}) {
		sb, ok, _ := s.sandboxes.Get(item.Id)
		if ok && sb.ready() {
			found, containers = append(found, sb), append(containers, s.containersOf(sb.ID)...)
		}
	}
	disk := s.diskUsages(ctx, containers)
	var items []*runtimeapi.PodSandboxStats
	for _, sb := range found {
		result, err := s.sandboxStats(sb, disk)
		if err != nil { // it may be stopped just now
			klog.FromContext(ctx).V(4).Info("Could not measure sandbox", "sandbox", sb.ID, "err", err)
			continue
		}
		items = append(items, result)
	}
	return items
}

// podCgroup is the directory of the cgroup that the kubelet made for a pod; "" if it named none.
func (s *Server) podCgroup(sb *sandbox) string {
	parent := sb.Config.Config.GetLinux().GetCgroupParent()
	if parent != "" && s.options.CgroupManager == Systemd {
		return oci.ExpandSlice(parent)
	}
	return parent
}

// podUsage is what a pod's cgroup uses, which is the kubelet's; without one it is the sum of its
// containers.
func (s *Server) podUsage(sb *sandbox) stats.Usage {
	if dir := s.podCgroup(sb); dir != "" {
		if usage, err := s.cgroups().Read(dir); err == nil {
			return usage
		}
	}
	sum := stats.Usage{Stats: *cgroups.NewStats()}
	for _, c := range s.containersOf(sb.ID) {
		usage, err := s.cgroups().Read(oci.CgroupDir(c.Config.CgroupsPath))
		if err != nil {
			continue
		}
		sum.CpuStats.CpuUsage.TotalUsage += usage.CpuStats.CpuUsage.TotalUsage
		sum.MemoryStats.Usage.Usage += usage.MemoryStats.Usage.Usage
		sum.PidsStats.Current += usage.PidsStats.Current
		for _, name := range []string{"anon", "inactive_file", "pgfault", "pgmajfault"} {
			sum.MemoryStats.Stats[name] += usage.MemoryStats.Stats[name]
		}
	}
	return sum
}

func (s *Server) sandboxStats(sb *sandbox, disk map[string]diskusage.Usage) (*runtimeapi.PodSandboxStats, error) {
	config, now := sb.Config.Config, time.Now()
	usage := s.podUsage(sb)
	linux := &runtimeapi.LinuxPodSandboxStats{
		Cpu: cpuUsage(&sb.cpu, now, usage), Memory: memoryUsage(now, usage), Io: ioUsage(now, usage),
		Process: &runtimeapi.ProcessUsage{Timestamp: now.UnixNano(), ProcessCount: value(usage.PidsStats.Current)},
	}
	if sb.netns() != "" && sb.ready() {
		interfaces, err := stats.Interfaces(sb.netns())
		if err != nil {
			return nil, err
		}
		linux.Network = networkUsage(now, interfaces)
	}
	for _, c := range s.containersOf(sb.ID) {
		linux.Containers = append(linux.Containers, s.containerStats(c, disk))
	}
	return &runtimeapi.PodSandboxStats{Linux: linux, Attributes: &runtimeapi.PodSandboxAttributes{
		Id: sb.ID, Metadata: config.GetMetadata(), Labels: config.GetLabels(), Annotations: config.GetAnnotations(),
	}}, nil
}

func networkUsage(now time.Time, interfaces []*netlink.LinkAttrs) *runtimeapi.NetworkUsage {
	usage := &runtimeapi.NetworkUsage{Timestamp: now.UnixNano()}
	for _, i := range interfaces {
		is := i.Statistics
		one := &runtimeapi.NetworkInterfaceUsage{
			Name: i.Name, RxBytes: value(is.RxBytes), RxErrors: value(is.RxErrors), TxBytes: value(is.TxBytes), TxErrors: value(is.TxErrors),
		}
		if i.Name == cni.Interface {
			usage.DefaultInterface = one
		} else {
			usage.Interfaces = append(usage.Interfaces, one)
		}
	}
	return usage
}
