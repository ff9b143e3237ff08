package criserver

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/cni"
	"minikubelet/runtime/criserver/diskusage"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/stats"
	"minikubelet/runtime/criserver/store"
)

// ContainerStats measures a container.
func (s *Server) ContainerStats(ctx context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: s.containerStats(c, s.diskUsages(ctx, []*container{c}))}, nil
}

// ListContainerStats measures the containers that match a filter.
func (s *Server) ListContainerStats(ctx context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	filter := r.GetFilter()
	found := s.matchingContainers(&runtimeapi.ContainerFilter{Id: filter.GetId(), PodSandboxId: filter.GetPodSandboxId(), LabelSelector: filter.GetLabelSelector()})
	disk := s.diskUsages(ctx, found)
	response := &runtimeapi.ListContainerStatsResponse{}
	for _, c := range found {
		response.Stats = append(response.Stats, s.containerStats(c, disk))
	}
	return response, nil
}

// StreamContainerStats is ListContainerStats for answers of any length.
func (s *Server) StreamContainerStats(r *runtimeapi.StreamContainerStatsRequest, stream runtimeapi.RuntimeService_StreamContainerStatsServer) error {
	all, _ := s.ListContainerStats(stream.Context(), &runtimeapi.ListContainerStatsRequest{Filter: r.GetFilter()})
	return inPieces(all.GetStats(), func(part []*runtimeapi.ContainerStats) error {
		return stream.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: part})
	})
}

func (s *Server) cgroups() stats.Cgroups {
	return stats.Cgroups{Root: stats.Root, V2: s.machine.CgroupV2}
}

// containerStats are a container's statistics. One that has ended uses nothing but disk.
func (s *Server) containerStats(c *container, disk map[string]diskusage.Usage) *runtimeapi.ContainerStats {
	config := c.Config.Config
	result := &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{
		Id: c.ID, Metadata: config.GetMetadata(), Labels: config.GetLabels(), Annotations: config.GetAnnotations(),
	}}
	now := time.Now()
	if used, ok := disk[c.ID]; ok {
		result.WritableLayer = s.filesystemUsage(used.At, uint64(used.Bytes), uint64(used.Inodes))
	}
	usage, _ := s.cgroups().Read(oci.CgroupDir(c.Config.CgroupsPath))
	result.Cpu, result.Memory, result.Io = cpuUsage(&c.cpu, now, usage), memoryUsage(now, usage), ioUsage(now, usage)
	result.Swap = &runtimeapi.SwapUsage{Timestamp: now.UnixNano(), SwapUsageBytes: value(usage.MemoryStats.SwapOnlyUsage.Usage)}
	return result
}

func value(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }

// cpuSample is an earlier measurement, to tell how busy something is now.
type cpuSample struct {
	mu    sync.Mutex
	at    time.Time
	nanos uint64
	rate  uint64
}

// minRateTime is the least time between two measurements that a rate is made of.
const minRateTime = 500 * time.Millisecond

func cpuUsage(last *cpuSample, now time.Time, usage stats.Usage) *runtimeapi.CpuUsage {
	total := usage.CpuStats.CpuUsage.TotalUsage
	last.mu.Lock()
	defer last.mu.Unlock()
	if passed := now.Sub(last.at); passed >= minRateTime {
		if !last.at.IsZero() && total >= last.nanos {
			last.rate = uint64(float64(total-last.nanos) / passed.Seconds())
		}
		last.at, last.nanos = now, total
	}
	return &runtimeapi.CpuUsage{
		Timestamp: now.UnixNano(), UsageCoreNanoSeconds: value(total), UsageNanoCores: value(last.rate),
		Psi: stats.PSI(usage.CpuStats.PSI),
	}
}

func memoryUsage(now time.Time, usage stats.Usage) *runtimeapi.MemoryUsage {
	memory := usage.MemoryStats
	result := &runtimeapi.MemoryUsage{
		Timestamp: now.UnixNano(), WorkingSetBytes: value(usage.WorkingSet()), UsageBytes: value(memory.Usage.Usage), RssBytes: value(memory.Stats["anon"]),
		PageFaults: value(memory.Stats["pgfault"]), MajorPageFaults: value(memory.Stats["pgmajfault"]), AvailableBytes: value(0), Psi: stats.PSI(memory.PSI),
	}
	if limit := memory.Usage.Limit; limit > 0 {
		result.AvailableBytes = value(limit - min(limit, usage.WorkingSet()))
	}
	return result
}

func ioUsage(now time.Time, usage stats.Usage) *runtimeapi.IoUsage {
	if usage.BlkioStats.PSI == nil {
		return nil
	}
	return &runtimeapi.IoUsage{Timestamp: now.UnixNano(), Psi: stats.PSI(usage.BlkioStats.PSI)}
}

// PodSandboxStats measures a pod.
func (s *Server) PodSandboxStats(ctx context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	sb, err := s.findSandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: s.sandboxStats(sb, s.diskUsages(ctx, s.containersOf(sb.ID)))}, nil
}

// ListPodSandboxStats measures the pods that match a filter.
func (s *Server) ListPodSandboxStats(ctx context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	filter := r.GetFilter()
	found, disk := s.runningSandboxes(ctx, &runtimeapi.PodSandboxFilter{Id: filter.GetId(), LabelSelector: filter.GetLabelSelector()})
	response := &runtimeapi.ListPodSandboxStatsResponse{}
	for _, sb := range found {
		response.Stats = append(response.Stats, s.sandboxStats(sb, disk))
	}
	return response, nil
}

// StreamPodSandboxStats is ListPodSandboxStats for answers of any length.
func (s *Server) StreamPodSandboxStats(r *runtimeapi.StreamPodSandboxStatsRequest, stream runtimeapi.RuntimeService_StreamPodSandboxStatsServer) error {
	all, _ := s.ListPodSandboxStats(stream.Context(), &runtimeapi.ListPodSandboxStatsRequest{Filter: r.GetFilter()})
	return inPieces(all.GetStats(), func(part []*runtimeapi.PodSandboxStats) error {
		return stream.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: part})
	})
}

// runningSandboxes are the sandboxes that run and match a filter, and what their containers take on the disk.
func (s *Server) runningSandboxes(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*sandbox, map[string]diskusage.Usage) {
	found := slices.DeleteFunc(s.matchingSandboxes(filter), func(sb *sandbox) bool { return !sb.ready() })
	var containers []*container
	for _, sb := range found {
		containers = append(containers, s.containersOf(sb.ID)...)
	}
	return found, s.diskUsages(ctx, containers)
}

// podCgroup is the directory of the cgroup that the kubelet made for a pod; "" if it named none.
func (s *Server) podCgroup(sb *sandbox) string {
	parent := sb.Config.Config.GetLinux().GetCgroupParent()
	if parent != "" && s.options.CgroupManager == Systemd {
		return oci.ExpandSlice(parent)
	}
	return parent
}

// podUsage is what a pod's cgroup uses, which is the kubelet's; without one it is the sum of its containers.
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

func (s *Server) sandboxStats(sb *sandbox, disk map[string]diskusage.Usage) *runtimeapi.PodSandboxStats {
	config, now := sb.Config.Config, time.Now()
	usage := s.podUsage(sb)
	linux := &runtimeapi.LinuxPodSandboxStats{
		Cpu: cpuUsage(&sb.cpu, now, usage), Memory: memoryUsage(now, usage), Io: ioUsage(now, usage), Network: networkUsage(now, sb.interfaces()),
		Process: &runtimeapi.ProcessUsage{Timestamp: now.UnixNano(), ProcessCount: value(usage.PidsStats.Current)},
	}
	for _, c := range s.containersOf(sb.ID) {
		linux.Containers = append(linux.Containers, s.containerStats(c, disk))
	}
	return &runtimeapi.PodSandboxStats{Linux: linux, Attributes: &runtimeapi.PodSandboxAttributes{
		Id: sb.ID, Metadata: config.GetMetadata(), Labels: config.GetLabels(), Annotations: config.GetAnnotations(),
	}}
}

// interfaces are those of the pod's own network; none of one that is being stopped.
func (sb *sandbox) interfaces() []*netlink.LinkAttrs {
	if sb.hostNetwork() || !sb.ready() {
		return nil
	}
	interfaces, _ := stats.Interfaces(sb.netns())
	return interfaces
}

func networkUsage(now time.Time, interfaces []*netlink.LinkAttrs) *runtimeapi.NetworkUsage {
	if len(interfaces) == 0 {
		return nil
	}
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

// diskPatience is how long a call for statistics waits for writable layers to be measured. After that the figures of an
// earlier measurement count, with their time.
const diskPatience = time.Second

// diskUsages tells by container ID what containers take on the disk: their writable layers, and one container of each pod
// also the pod's own files. Those without a writable layer are left out.
func (s *Server) diskUsages(ctx context.Context, containers []*container) map[string]diskusage.Usage {
	usages := layerUsages(ctx, containers, s.images.SnapshotUsage)
	for _, c := range containers {
		if usage, ok := usages[c.ID]; ok {
			s.addPodFiles(&usage, c)
			usages[c.ID] = usage
		}
	}
	return usages
}

// layerUsages measures the writable layers of containers by ID, all at once.
func layerUsages(ctx context.Context, containers []*container, measureLayer func(context.Context, string) (diskusage.Usage, error)) map[string]diskusage.Usage {
	ctx, cancel := context.WithTimeout(ctx, diskPatience)
	defer cancel()
	usages := map[string]diskusage.Usage{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, c := range containers {
		all.Go(func() {
			usage, err := measureLayer(ctx, c.ID)
			if err != nil { // it may be removed just now
				klog.FromContext(ctx).V(4).Info("Could not measure the writable layer", "container", c.ID, "err", err)
				return
			}
			if !usage.At.IsZero() {
				mu.Lock()
				defer mu.Unlock()
				usages[c.ID] = usage
			}
		})
	}
	all.Wait()
	return usages
}

// addPodFiles counts hostname and resolv.conf, which the containers of a pod share and may write to, for one of them: the
// newest that runs, or else the newest. The CRI has no place for what a pod takes on the disk.
func (s *Server) addPodFiles(usage *diskusage.Usage, c *container) {
	sb, ok, _ := s.sandboxes.Get(c.Config.SandboxID)
	if !ok || s.chargedForPodFiles(sb) != c {
		return
	}
	for _, file := range []string{sb.hostnameFile(), sb.resolvConf()} {
		var stat unix.Stat_t
		if unix.Lstat(file, &stat) == nil {
			usage.Bytes += stat.Blocks * 512
			usage.Inodes++
		}
	}
}

// chargedForPodFiles is the container that its pod's own files count for.
func (s *Server) chargedForPodFiles(sb *sandbox) *container {
	var newest *container
	for _, c := range s.containersOf(sb.ID) {
		running := c.State().Phase == store.ContainerRunning
		if newest == nil || running || newest.State().Phase != store.ContainerRunning {
			newest = c
		}
	}
	return newest
}
