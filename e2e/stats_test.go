package e2e

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"minikubelet/kubelet/measure"
	"minikubelet/kubelet/stats"
	"minikubelet/runtime/cgroups"
	"minikubelet/runtime/cri"
)

// mute is a runtime that keeps its statistics to itself.
type mute struct {
	runtimeapi.RuntimeServiceClient
}

func (mute) ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return nil, status.Error(codes.Unimplemented, "mute")
}

func (mute) ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest, ...grpc.CallOption) (*runtimeapi.ListContainerStatsResponse, error) {
	return nil, status.Error(codes.Unimplemented, "mute")
}

// statistics makes a provider beside the running kubelet's.
func statistics(t *testing.T, silent bool, pods ...*corev1.Pod) *stats.Provider {
	t.Helper()
	client, err := cri.Dial(cri.Options{Endpoint: "unix://" + shared.RuntimeSocket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if silent {
		client.Runtime = mute{client.Runtime}
	}
	groups, err := cgroups.New(cgroups.Options{Root: "/" + shared.CgroupName(), PerQOS: true})
	if err != nil {
		t.Fatal(err)
	}
	machine, err := measure.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	return stats.New(stats.Options{
		CRI: client, Machine: machine, NodeName: shared.NodeName, RootDir: shared.RootDir(), PodLogsDir: shared.PodLogsDir(), Endpoint: "unix://" + shared.RuntimeSocket,
		Pods: func() []*corev1.Pod { return pods }, PodCgroup: groups.PodCgroup, PodsCgroup: groups.PodsCgroup,
	})
}

// TestStats: the runtime and the cgroups agree about what a pod uses.
func TestStats(t *testing.T) {
	ctx, _ := node(t)
	unlimited := ready(ctx, t, newPod(t))
	pod := newPod(t)
	c := shell("busy", "dd if=/dev/zero of=/layer bs=1M count=2; dd if=/dev/zero of=/data/file bs=1M count=3; echo logged; sync; while :; do :; done")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	pod.Spec.Containers = []corev1.Container{c}
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	pod = ready(ctx, t, pod)
	eventually(ctx, t, "the script is done with its files", func() bool { return strings.Contains(logs(t, pod, "busy", 0), "logged") })

	found := func(p *stats.Provider) (*statsapi.Summary, *statsapi.PodStats) {
		t.Helper()
		s, err := p.Get(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range s.Pods {
			if s.Pods[i].PodRef.UID == string(pod.UID) && len(s.Pods[i].Containers) == 1 {
				return s, &s.Pods[i]
			}
		}
		t.Fatalf("the pod is not in %+v", s.Pods)
		return nil, nil
	}
	told, silent := statistics(t, false, pod), statistics(t, true, pod)
	eventually(ctx, t, "the runtime has statistics of the container", func() bool {
		_, p := found(told)
		layer := p.Containers[0].Rootfs
		// A CPU time that is still small would more than double until the second reading.
		cpu := p.Containers[0].CPU
		return layer != nil && layer.UsedBytes != nil && *layer.UsedBytes >= 2<<20 && cpu != nil && *cpu.UsageCoreNanoSeconds >= 2e8 // containerd looks every 10 s
	})
	s, theirs := found(told)
	time.Sleep(1100 * time.Millisecond) // a rate needs two readings a second apart
	_, ours := found(silent)
	for what, pair := range map[string][2]*uint64{
		"pod's CPU time":           {theirs.CPU.UsageCoreNanoSeconds, ours.CPU.UsageCoreNanoSeconds},
		"container's CPU time":     {theirs.Containers[0].CPU.UsageCoreNanoSeconds, ours.Containers[0].CPU.UsageCoreNanoSeconds},
		"pod's working set":        {theirs.Memory.WorkingSetBytes, ours.Memory.WorkingSetBytes},
		"container's working set":  {theirs.Containers[0].Memory.WorkingSetBytes, ours.Containers[0].Memory.WorkingSetBytes},
		"container's memory usage": {theirs.Containers[0].Memory.UsageBytes, ours.Containers[0].Memory.UsageBytes},
		"available memory":         {theirs.Containers[0].Memory.AvailableBytes, ours.Containers[0].Memory.AvailableBytes},
		"logs":                     {theirs.Containers[0].Logs.UsedBytes, ours.Containers[0].Logs.UsedBytes},
		"volume":                   {theirs.VolumeStats[0].UsedBytes, ours.VolumeStats[0].UsedBytes},
	} {
		if pair[0] == nil || pair[1] == nil || *pair[0] == 0 || *pair[1] > 3*(*pair[0])+1<<20 || *pair[0] > 3*(*pair[1])+1<<20 {
			t.Errorf("%s: %s by the runtime, %s by the cgroups", what, text(pair[0]), text(pair[1]))
		}
	}
	if *theirs.EphemeralStorage.UsedBytes < 5<<20 || *theirs.VolumeStats[0].UsedBytes < 3<<20 || *theirs.Containers[0].Rootfs.CapacityBytes == 0 {
		t.Errorf("files of 5 MiB use %s", text(theirs.EphemeralStorage.UsedBytes))
	}
	if theirs.Network == nil || theirs.Network.Name != "eth0" || ours.Network == nil || ours.Network.Name != "eth0" || ours.Network.RxBytes == nil {
		t.Errorf("network: %+v by the runtime, %+v by the kernel", theirs.Network, ours.Network)
	}
	if *s.Node.Memory.WorkingSetBytes <= *theirs.Memory.WorkingSetBytes || *s.Node.Runtime.ImageFs.UsedBytes == 0 || *s.Node.Rlimit.NumOfRunningProcesses == 0 {
		t.Errorf("node: %+v", s.Node)
	}
	if _, err := os.Stat("/proc/pressure/cpu"); err == nil {
		if cpu, memory, io := s.Node.CPU.PSI, s.Node.Memory.PSI, s.Node.IO; cpu == nil || cpu.Some.Total == 0 || memory == nil || io == nil || io.PSI == nil {
			t.Errorf("the kernel tells of pressure, the node's statistics do not: %+v, %+v, %+v", cpu, memory, io)
		}
	}
	var system []string
	for _, c := range s.Node.SystemContainers {
		system = append(system, c.Name)
	}
	if got := strings.Join(system, " "); !strings.Contains(got, "pods") || !strings.Contains(got, "kubelet") {
		t.Errorf("system containers: %v", system)
	}
	for _, p := range s.Pods {
		if p.PodRef.UID == string(unlimited.UID) && p.Containers[0].Memory.AvailableBytes != nil {
			t.Errorf("without a limit there are %s available", text(p.Containers[0].Memory.AvailableBytes))
		}
	}
	scraped(t, pod, told, silent)
	remove(ctx, t, pod)
}

// scraped checks the two endpoints that show the same as metrics.
func scraped(t *testing.T, pod *corev1.Pod, told, silent *stats.Provider) {
	t.Helper()
	for _, h := range []http.Handler{told.Resource(), silent.Resource(), told.Cadvisor(), silent.Cadvisor()} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(t.Context()))
		for _, name := range []string{"container_cpu_usage_seconds_total{", "container_memory_working_set_bytes{"} {
			shown := false
			for line := range strings.Lines(w.Body.String()) {
				shown = shown || strings.HasPrefix(line, name) && strings.Contains(line, `container="busy"`) && strings.Contains(line, `pod="`+pod.Name+`"`)
			}
			if !shown {
				t.Errorf("no %s of the container in\n%s", name, w.Body)
			}
		}
	}
}

func text(n *uint64) string {
	if n == nil {
		return "unknown"
	}
	return resource.NewQuantity(int64(*n), resource.BinarySI).String()
}
