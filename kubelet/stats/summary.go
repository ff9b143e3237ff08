package stats

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"minikubelet/kubelet/measure"
)

// collect works out one answer.
//
// Upstream: pkg/kubelet/server/stats/summary.go Get
func (p *Provider) collect(ctx context.Context, small bool) (*snapshot, error) {
	s := &snapshot{at: time.Now()}
	root, err := p.machine.Node()
	if err != nil {
		return nil, err
	}
	if s.pods, err = p.readCRI(ctx); err != nil {
		return nil, fmt.Errorf("ask the runtime for pods: %w", err)
	}
	p.rates.fill("/", root.CPU)
	s.Node = statsapi.NodeStats{
		NodeName: p.opts.NodeName, StartTime: p.machine.Boot(), CPU: root.CPU, Memory: root.Memory, Swap: root.Swap,
	}
	s.Node.SystemContainers, s.system = p.systemContainers()
	specs := p.specs()
	s.Pods = make([]statsapi.PodStats, 0, len(s.pods))
	for _, pod := range s.pods {
		s.Pods = append(s.Pods, p.pod(pod, specs[pod.sandbox.Metadata.Uid]))
	}
	if !small {
		p.addDisks(ctx, s, specs)
		s.Node.IO, s.Node.Rlimit = root.IO, p.machine.PIDs()
		s.Node.Network, s.devices = p.machine.Network()
	} else {
		s.leaveOut()
	}
	p.rates.forget(s.at)
	return s, nil
}

// specs are the pods of the node, by UID.
func (p *Provider) specs() map[string]*corev1.Pod {
	out := map[string]*corev1.Pod{}
	if p.opts.Pods != nil {
		for _, pod := range p.opts.Pods() {
			out[string(pod.UID)] = pod
		}
	}
	return out
}

// leaveOut drops what is neither CPU nor memory.
func (s *snapshot) leaveOut() {
	for i := range s.Pods {
		pod := &s.Pods[i]
		pod.Network, pod.IO, pod.ProcessStats = nil, nil, nil
		for j := range pod.Containers {
			pod.Containers[j].IO = nil
		}
	}
}

// pod tells what one pod uses: what the runtime says, and its cgroup where the runtime is silent. spec is nil for a pod
// that only the runtime knows.
func (p *Provider) pod(pod *criPod, spec *corev1.Pod) statsapi.PodStats {
	meta := pod.sandbox.Metadata
	out := statsapi.PodStats{
		PodRef:    statsapi.PodReference{Name: meta.Name, Namespace: meta.Namespace, UID: meta.Uid},
		StartTime: at(pod.sandbox.CreatedAt), CPU: criCPU(pod.stats.GetCpu()), Memory: criMemory(pod.stats.GetMemory()), IO: criIO(pod.stats.GetIo()),
		Network: criNetwork(pod.stats.GetNetwork()), Containers: []statsapi.ContainerStats{},
	}
	if n := value(pod.stats.GetProcess().GetProcessCount()); n != nil {
		out.ProcessStats = &statsapi.ProcessStats{ProcessCount: n}
	}
	cgroup := ""
	if spec != nil {
		cgroup = p.podCgroup(spec)
	}
	for _, c := range pod.containers {
		out.Containers = append(out.Containers, p.container(c, cgroup))
	}
	if cgroup != "" {
		p.fillPod(&out, pod, cgroup, spec)
	}
	if out.Swap == nil {
		out.Swap = sumSwap(out.Containers)
	}
	p.rates.fill("pod/"+meta.Uid, out.CPU)
	return out
}

// fillPod adds from the pod's cgroup what is missing.
func (p *Provider) fillPod(out *statsapi.PodStats, pod *criPod, cgroup string, spec *corev1.Pod) {
	if out.CPU == nil || out.Memory == nil || out.ProcessStats == nil || p.machine.Unified() && out.IO == nil {
		u := p.machine.Cgroup(cgroup)
		out.CPU, out.Memory, out.IO = either(out.CPU, u.CPU), either(out.Memory, u.Memory), either(out.IO, u.IO)
		if out.ProcessStats == nil && u.Processes != nil {
			out.ProcessStats = &statsapi.ProcessStats{ProcessCount: u.Processes}
		}
	}
	if out.Network == nil && !spec.Spec.HostNetwork {
		out.Network, pod.devices = p.machine.PodNetwork(cgroup)
	}
}

func (p *Provider) container(c criContainer, podCgroup string) statsapi.ContainerStats {
	out := statsapi.ContainerStats{
		Name: c.Metadata.Name, StartTime: at(c.CreatedAt), CPU: criCPU(c.stats.GetCpu()), Memory: criMemory(c.stats.GetMemory()),
		Swap: criSwap(c.stats.GetSwap()), IO: criIO(c.stats.GetIo()),
	}
	if out.CPU == nil || out.Memory == nil || out.Swap == nil || p.machine.Unified() && out.IO == nil {
		if cgroup, ok := p.machine.Child(podCgroup, c.Id); ok {
			u := p.machine.Cgroup(cgroup)
			out.CPU, out.Memory, out.Swap, out.IO = either(out.CPU, u.CPU), either(out.Memory, u.Memory), either(out.Swap, u.Swap), either(out.IO, u.IO)
		}
	}
	p.rates.fill("container/"+c.Id, out.CPU)
	return out
}

// either is the first that there is.
func either[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// sumSwap adds up what containers swap; the runtime does not tell it of pods.
func sumSwap(containers []statsapi.ContainerStats) *statsapi.SwapStats {
	var out *statsapi.SwapStats
	add := func(sum **uint64, n *uint64) {
		if n == nil {
			return
		}
		if *sum == nil {
			*sum = new(uint64(0))
		}
		*sum = new(**sum + *n)
	}
	for i := range containers {
		s := containers[i].Swap
		if s == nil {
			continue
		}
		if out == nil {
			out = &statsapi.SwapStats{}
		}
		out.Time = s.Time
		add(&out.SwapUsageBytes, s.SwapUsageBytes)
		add(&out.SwapAvailableBytes, s.SwapAvailableBytes)
	}
	return out
}

// addDisks adds filesystems: the node's, the images', and what each pod keeps on them.
func (p *Provider) addDisks(ctx context.Context, s *snapshot, specs map[string]*corev1.Pod) {
	disks, cancel := context.WithTimeout(ctx, disksPatience)
	defer cancel()
	states := map[string]*statsapi.FsStats{}
	state := func(mountpoint string) *statsapi.FsStats {
		if _, ok := states[mountpoint]; !ok && filepath.IsAbs(mountpoint) {
			states[mountpoint] = filesystem(ctx, mountpoint)
		}
		return states[mountpoint]
	}
	s.Node.Fs = filesystem(ctx, p.opts.RootDir)
	s.Node.Runtime = p.imageFs(ctx, state)
	for i := range s.Pods {
		out, pod := &s.Pods[i], s.pods[i]
		for j := range out.Containers {
			out.Containers[j].Rootfs = criFilesystem(pod.containers[j].stats.GetWritableLayer(), state)
			out.Containers[j].Logs = p.logs(disks, out.PodRef, out.Containers[j].Name, s.Node.Fs)
		}
		if spec := specs[out.PodRef.UID]; spec != nil {
			out.VolumeStats = p.volumes(disks, spec)
		}
		out.EphemeralStorage = p.ephemeral(out, specs[out.PodRef.UID], s.Node.Fs)
	}
}

// filesystem is the state of the filesystem that a path is on; nil if it cannot be asked.
func filesystem(ctx context.Context, path string) *statsapi.FsStats {
	state, _, err := measure.Filesystem(path)
	if err != nil {
		klog.FromContext(ctx).V(2).Info("A filesystem is left out of the statistics", "err", err)
		return nil
	}
	return state
}

// imageFs is where the runtime keeps images and containers.
func (p *Provider) imageFs(ctx context.Context, state func(string) *statsapi.FsStats) *statsapi.RuntimeStats {
	info, err := p.opts.CRI.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil || len(info.ImageFilesystems) == 0 {
		klog.FromContext(ctx).V(2).Info("The runtime does not tell of its filesystems", "err", err)
		return nil
	}
	images := criFilesystem(info.ImageFilesystems[0], state)
	out := &statsapi.RuntimeStats{ImageFs: images, ContainerFs: images}
	if len(info.ContainerFilesystems) > 0 {
		out.ContainerFs = criFilesystem(info.ContainerFilesystems[0], state)
	}
	return out
}

// logs is what a container's logs take, on the node's filesystem.
func (p *Provider) logs(ctx context.Context, pod statsapi.PodReference, container string, on *statsapi.FsStats) *statsapi.FsStats {
	if p.opts.PodLogsDir == "" || strings.ContainsAny(pod.Namespace+pod.Name+pod.UID+container, "/\x00") || slices.Contains([]string{"", ".", ".."}, container) {
		return nil
	}
	return p.directory(ctx, filepath.Join(p.opts.PodLogsDir, pod.Namespace+"_"+pod.Name+"_"+pod.UID, container), on)
}

const (
	diskPatience  = 500 * time.Millisecond // how long an answer waits for one directory
	disksPatience = 5 * time.Second        // and for all of them
)

// used is what files take, and when they did.
type used struct {
	bytes, inodes uint64
	at            time.Time
}

// directory is what a directory takes of a filesystem, nil if it is not known yet.
func (p *Provider) directory(ctx context.Context, dir string, on *statsapi.FsStats) *statsapi.FsStats {
	waiting, cancel := context.WithTimeout(ctx, diskPatience)
	defer cancel()
	u, err := p.opts.Disk.Usage(waiting, dir, p.opts.VolumeAge)
	if err != nil {
		klog.FromContext(ctx).V(2).Info("A directory's usage is not known", "directory", dir, "err", err)
		return nil
	}
	return onFilesystem(used{uint64(max(u.Bytes, 0)), uint64(max(u.Inodes, 0)), u.At}, on)
}

// onFilesystem adds what the filesystem holds. What files take has the time at which it was measured.
func onFilesystem(u used, on *statsapi.FsStats) *statsapi.FsStats {
	out := &statsapi.FsStats{Time: metav1.NewTime(u.at), UsedBytes: &u.bytes, InodesUsed: &u.inodes}
	if on != nil {
		out.AvailableBytes, out.CapacityBytes, out.Inodes, out.InodesFree = on.AvailableBytes, on.CapacityBytes, on.Inodes, on.InodesFree
	}
	return out
}
