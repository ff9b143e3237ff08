package eviction

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	kubelettypes "k8s.io/kubelet/pkg/types"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/criserver/diskusage"
)

// usages measures pods: memory and processes always, files if disk is set, since that takes a walk over all of them.
// A pod whose files cannot be measured is logged and left out. Without an answer of the runtime, which may be what
// suffers, cgroups and files tell enough to choose by.
//
// Upstream: pkg/kubelet/stats/cri_stats_provider.go ListPodStats.
func (m *Manager) usages(ctx context.Context, pods []*corev1.Pod, disk bool) usages {
	running, err := m.running(ctx, pods)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Eviction: the runtime does not tell what containers use")
	}
	out := usages{}
	for _, pod := range pods {
		out[pod.UID] = m.fromStats(pod, running)
	}
	if disk {
		m.addFiles(ctx, pods, out)
	}
	return out
}

// containerKey is what the kubelet knows a container by.
type containerKey struct {
	pod  types.UID
	name string
}

// running asks the runtime what the containers of pods use that run. It tells of ended ones too, of an earlier try of a
// container that restarted for one, which as upstream count for nothing. nil without an answer.
func (m *Manager) running(ctx context.Context, pods []*corev1.Pod) (map[containerKey]*runtimeapi.ContainerStats, error) {
	ctx, cancel := context.WithTimeout(ctx, runtimePatience)
	defer cancel()
	request := &runtimeapi.ListContainerStatsRequest{}
	filter := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	if len(pods) == 1 {
		filter.LabelSelector = map[string]string{kubelettypes.KubernetesPodUIDLabel: string(pods[0].UID)}
		request.Filter = &runtimeapi.ContainerStatsFilter{LabelSelector: filter.LabelSelector}
	}
	stats, err := m.CRI.Runtime.ListContainerStats(ctx, request)
	if err != nil {
		return nil, err
	}
	list, err := m.CRI.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: filter})
	if err != nil {
		return nil, err
	}
	byID := map[string]*runtimeapi.ContainerStats{}
	for _, s := range stats.GetStats() {
		byID[s.GetAttributes().GetId()] = s
	}
	out := map[containerKey]*runtimeapi.ContainerStats{}
	for _, c := range list.GetContainers() {
		out[containerKey{types.UID(c.GetLabels()[kubelettypes.KubernetesPodUIDLabel]), c.GetMetadata().GetName()}] = byID[c.GetId()]
	}
	return out, nil
}

// addFiles measures the files of pods. A pod whose files cannot be measured is left out; of one whose files take longer
// than a look does, what is known so far counts.
func (m *Manager) addFiles(ctx context.Context, pods []*corev1.Pod, out usages) {
	waiting, cancel := context.WithTimeout(ctx, filesPatience)
	defer cancel()
	errs := make([]error, len(pods))
	var all sync.WaitGroup
	for i, pod := range pods {
		all.Go(func() { errs[i] = m.files(waiting, pod, out[pod.UID]) })
	}
	all.Wait()
	for i, pod := range pods {
		switch {
		case errors.Is(errs[i], diskusage.ErrNotMeasured):
			out[pod.UID].partial = true
		case errs[i] != nil:
			klog.FromContext(ctx).V(2).Info("Eviction: a pod's files cannot be measured now", "pod", klog.KObj(pod), "podUID", pod.UID, "err", errs[i])
			delete(out, pod.UID)
		}
	}
}

const (
	filesPatience = 5 * time.Second                // how long a look waits for files to be measured
	filesAge      = monitoringPeriod - time.Second // how old a pod's usage may be
)

// fromStats takes over the runtime's figures of containers that run, or names all containers if it gave none; the pod's own
// cgroup has those of the pod.
func (m *Manager) fromStats(pod *corev1.Pod, running map[containerKey]*runtimeapi.ContainerStats) *podUsage {
	u := &podUsage{volumes: map[string]space{}}
	for container := range podinfo.AllContainers(pod) {
		s, runs := running[containerKey{pod.UID, container.Name}]
		if running != nil && !runs {
			continue
		}
		c := containerUsage{
			name: container.Name, memory: int64(s.GetMemory().GetWorkingSetBytes().GetValue()),
			rootfs: space{int64(s.GetWritableLayer().GetUsedBytes().GetValue()), int64(s.GetWritableLayer().GetInodesUsed().GetValue())},
		}
		u.memory += c.memory
		u.containers = append(u.containers, c)
	}
	if m.PodUsage != nil {
		if memory, processes, err := m.PodUsage(pod); err == nil {
			u.memory, u.processes = memory, processes
		}
	}
	return u
}

// files measures the pod's logs, and those of its volumes that are on the node's disk.
func (m *Manager) files(ctx context.Context, pod *corev1.Pod, u *podUsage) error {
	logs := filepath.Join(m.PodLogsDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
	var errs []error
	var late error
	add := func(into *space, path ...string) {
		used, err := m.Disk.Usage(ctx, filepath.Join(path...), filesAge)
		*into = space{used.Bytes, used.Inodes}
		if errors.Is(err, diskusage.ErrNotMeasured) {
			late = err
			return
		}
		errs = append(errs, err)
	}
	for i := range u.containers {
		add(&u.containers[i].logs, logs, u.containers[i].name)
	}
	dir := filepath.Join(m.PodsDir, string(pod.UID))
	for i := range pod.Spec.Volumes {
		plugin := ""
		switch v := &pod.Spec.Volumes[i]; {
		case v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault:
			plugin = "kubernetes.io~empty-dir"
		case v.ConfigMap != nil:
			plugin = "kubernetes.io~configmap"
		default:
			continue
		}
		var used space
		add(&used, dir, "volumes", plugin, pod.Spec.Volumes[i].Name)
		u.volumes[pod.Spec.Volumes[i].Name] = used
	}
	var st unix.Stat_t
	if unix.Lstat(filepath.Join(dir, "etc-hosts"), &st) == nil {
		u.host = space{st.Blocks * 512, 1}
	}
	return cmp.Or(errors.Join(errs...), late)
}
