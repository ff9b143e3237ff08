package criserver

import (
	"context"
	"fmt"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/diskusage"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/stats"
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
	return &runtimeapi.ListContainerStatsResponse{Stats: s.listContainerStats(ctx, r.GetFilter())}, nil
}

// StreamContainerStats is ListContainerStats for answers of any length.
func (s *Server) StreamContainerStats(r *runtimeapi.StreamContainerStatsRequest, stream runtimeapi.RuntimeService_StreamContainerStatsServer) error {
	return inPieces(s.listContainerStats(stream.Context(), r.GetFilter()), func(part []*runtimeapi.ContainerStats) error {
		return stream.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: part})
	})
}

func (s *Server) listContainerStats(ctx context.Context, filter *runtimeapi.ContainerStatsFilter) []*runtimeapi.ContainerStats {
	var found []*container
	for _, item := range s.listContainers(&runtimeapi.ContainerFilter{Id: filter.GetId(), PodSandboxId: filter.GetPodSandboxId(), LabelSelector: filter.GetLabelSelector()}) {
		if c, ok, _ := s.containers.Get(item.Id); ok {
			found = append(found, c)
		}
	}
	disk := s.diskUsages(ctx, found)
	var items []*runtimeapi.ContainerStats
	for _, c := range found {
		items = append(items, s.containerStats(c, disk))
	}
	return items
}

func (s *Server) cgroups() stats.Cgroups {
	return stats.Cgroups{Root: stats.Root, V2: s.machine.CgroupV2}
}

// oomKilled tells whether a process of a container was killed for memory.
func (s *Server) oomKilled(c *container) bool {
	return s.cgroups().OOMKills(oci.CgroupDir(c.Config.CgroupsPath)) > 0
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

// shortest is the least time between measurements that a rate is made of.
const shortest = 500 * time.Millisecond

func cpuUsage(last *cpuSample, now time.Time, usage stats.Usage) *runtimeapi.CpuUsage {
	total := usage.CpuStats.CpuUsage.TotalUsage
	last.mu.Lock()
	defer last.mu.Unlock()
	if passed := now.Sub(last.at); passed >= shortest {
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
	result, err := s.sandboxStats(sb, s.diskUsages(ctx, s.containersOf(sb.ID)))
	if err != nil {
		return nil, fmt.Errorf("measure pod sandbox %s: %w", sb.ID, err)
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: result}, nil
}
