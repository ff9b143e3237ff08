package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"minikubelet/kubelet/measure"
	"minikubelet/kubelet/stats"
	"minikubelet/runtime/cgroups"
	"minikubelet/runtime/cri"
)

// mute is a runtime that keeps its statistics to itself: the cgroups have to do.
type mute struct {
	runtimeapi.RuntimeServiceClient
}

func (mute) ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return nil, status.Error(codes.Unimplemented, "mute")
}

func (mute) ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest, ...grpc.CallOption) (*runtimeapi.ListContainerStatsResponse, error) {
	return nil, status.Error(codes.Unimplemented, "mute")
}

func byCgroups(t *testing.T, pod *corev1.Pod) *statsapi.Summary {
	t.Helper()
	client, err := cri.Dial(cri.Options{Endpoint: "unix://" + socket, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.Runtime = mute{client.Runtime}
	groups, err := cgroups.New(cgroups.Options{PerQOS: true})
	if err != nil {
		t.Fatal(err)
	}
	machine, err := measure.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	out, err := stats.New(stats.Options{
		CRI: client, Machine: machine, NodeName: nodeName, RootDir: "/var/lib/kubelet", PodLogsDir: podLogs, Endpoint: "unix://" + socket,
		Pods: func() []*corev1.Pod { return []*corev1.Pod{pod} }, PodCgroup: groups.PodCgroup, PodsCgroup: groups.PodsCgroup,
	}).Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func podStats(s *statsapi.Summary, pod *corev1.Pod) (*statsapi.PodStats, error) {
	for i := range s.Pods {
		if p := &s.Pods[i]; p.PodRef.UID == string(pod.UID) && len(p.Containers) == 1 && p.CPU != nil && p.Memory != nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("the pod is not in %+v", s.Pods)
}

// TestSummary: /stats/summary agrees with the files of cgroup v2, whether containerd tells or the kubelet reads them.
func TestSummary(t *testing.T) {
	script := "dd if=/dev/zero of=/dev/shm/kept bs=1M count=12; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; " + forever
	resources := corev1.ResourceRequirements{Requests: amounts("10m", "20Mi"), Limits: amounts("", "40Mi")}
	static(t, "measured", shell("c", script, resources))
	pod := running(t, "measured")
	const mib = 1 << 20
	eventually(t, "the memory is used", func() error {
		if used := keyed(t, containerGroup(pod, "c"), "memory.stat", "shmem"); used < 12*mib {
			return fmt.Errorf("%d", used)
		}
		return nil
	})
	var told *statsapi.Summary
	eventually(t, "the summary has the memory", func() error {
		told = summary(t)
		p, err := podStats(told, pod)
		if err == nil && (p.Memory.WorkingSetBytes == nil || *p.Memory.WorkingSetBytes < 12*mib || p.Containers[0].Memory == nil || p.Containers[0].CPU == nil) {
			err = fmt.Errorf("memory %+v", p.Memory)
		}
		return err
	})
	for who, s := range map[string]*statsapi.Summary{"containerd": told, "cgroups": byCgroups(t, pod)} {
		p, err := podStats(s, pod)
		if err != nil {
			t.Fatal(err)
		}
		c := p.Containers[0]
		about(t, who+": memory of the container", c.Memory.UsageBytes, number(t, containerGroup(pod, "c"), "memory.current"), 6*mib)
		about(t, who+": memory of the pod", p.Memory.UsageBytes, number(t, groupOf(pod), "memory.current"), 6*mib)
		about(t, who+": what the container may still use", c.Memory.AvailableBytes, 40*mib-*c.Memory.WorkingSetBytes, 0)
		// In nanoseconds; the pod may have gone on meanwhile.
		for what, group := range map[string]string{"container": containerGroup(pod, "c"), "pod": groupOf(pod)} {
			cpu := map[string]*statsapi.CPUStats{"container": c.CPU, "pod": p.CPU}[what]
			micros := keyed(t, group, "cpu.stat", "usage_usec")
			if cpu.UsageCoreNanoSeconds == nil || *cpu.UsageCoreNanoSeconds > micros*1000 || *cpu.UsageCoreNanoSeconds < micros*1000/10 {
				t.Errorf("%s: the %s used %v ns of CPU, cpu.stat says %d µs", who, what, cpu.UsageCoreNanoSeconds, micros)
			}
		}
		// containerd counts processes, without the sandbox's; cgroups count threads.
		if at := p.ProcessStats; at == nil || at.ProcessCount == nil || *at.ProcessCount < 1 || *at.ProcessCount > number(t, groupOf(pod), "pids.current")+3 {
			t.Errorf("%s: processes of the pod: %+v", who, at)
		}
		if p.Network == nil || p.Network.Name != "eth0" {
			t.Errorf("%s: network of the pod: %+v", who, p.Network)
		}
		node(t, who, s)
	}
}

// node checks what a summary says of the node: on v2 the root cgroup has neither memory nor, everywhere, pressure.
func node(t *testing.T, who string, s *statsapi.Summary) {
	t.Helper()
	n := s.Node
	if n.CPU == nil || n.CPU.UsageCoreNanoSeconds == nil || *n.CPU.UsageCoreNanoSeconds > keyed(t, "", "cpu.stat", "usage_usec")*1000 {
		t.Errorf("%s: CPU of the node: %+v", who, n.CPU)
	}
	if n.Memory == nil || n.Memory.WorkingSetBytes == nil || *n.Memory.WorkingSetBytes <= number(t, "kubepods", "memory.current") {
		t.Errorf("%s: memory of the node: %+v", who, n.Memory)
	}
	if _, err := os.Stat("/proc/pressure/cpu"); err == nil && (n.CPU.PSI == nil || n.Memory.PSI == nil || n.IO == nil || n.CPU.PSI.Some.Total == 0) {
		t.Errorf("%s: pressure on the node: CPU %+v, memory %+v, IO %+v", who, n.CPU.PSI, n.Memory.PSI, n.IO)
	}
	have := map[string]bool{}
	for _, c := range n.SystemContainers {
		have[c.Name] = c.CPU != nil && c.CPU.UsageCoreNanoSeconds != nil && *c.CPU.UsageCoreNanoSeconds > 0 &&
			c.Memory != nil && c.Memory.WorkingSetBytes != nil && *c.Memory.WorkingSetBytes > 0
	}
	for _, name := range []string{statsapi.SystemContainerKubelet, statsapi.SystemContainerRuntime, statsapi.SystemContainerPods} {
		// The tests' own process is not below the kubelet's cgroup but in the root.
		if !have[name] && (who != "cgroups" || name != statsapi.SystemContainerKubelet) {
			t.Errorf("%s: nothing of system container %s in %+v", who, name, n.SystemContainers)
		}
	}
}

func number(t *testing.T, group, file string) (n uint64) {
	t.Helper()
	if _, err := fmt.Sscan(value(t, group, file), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func about(t *testing.T, what string, got *uint64, want, tolerance uint64) {
	t.Helper()
	if got == nil || max(*got, want)-min(*got, want) > tolerance {
		if got == nil {
			got = new(uint64)
		}
		t.Errorf("%s: %d, want about %d", what, *got, want)
	}
}

// TestRestart: a kubelet that starts anew finds the pods that ran, and removes the cgroups of those that should not.
func TestRestart(t *testing.T) {
	static(t, "stays", shell("c", forever, corev1.ResourceRequirements{Requests: amounts("100m", "")}))
	static(t, "goes", shell("c", forever, corev1.ResourceRequirements{}))
	stays, goes := running(t, "stays"), running(t, "goes")
	if err := kubelet.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = kubelet.Wait() // killed
	if err := os.Remove(manifest("goes")); err != nil {
		t.Fatal(err)
	}
	// What a pod left that nobody knows any more.
	leftover := filepath.Join(root, "kubepods/besteffort/pod01234567-89ab-cdef-0123-456789abcdef")
	if err := os.Mkdir(leftover, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := startKubelet(); err != nil {
		t.Fatal(err)
	}
	gone(t, goes)
	eventually(t, "the leftover cgroup is removed", func() error {
		if _, err := os.Stat(leftover); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
	again := running(t, "stays")
	if again.Status.ContainerStatuses[0].ContainerID != stays.Status.ContainerStatuses[0].ContainerID {
		t.Error("the container that ran was started again")
	}
	expect(t, groupOf(stays), map[string]string{"cpu.weight": weight(102), "pids.max": fmt.Sprint(podPids)})
	tier(t, 102)
}
