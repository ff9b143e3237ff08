package stats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"minikubelet/kubelet/measure"
)

var noTimes = cmpopts.IgnoreTypes(metav1.Time{})

var someWait = &statsapi.PSIStats{Some: statsapi.PSIData{Avg10: 1, Total: 7000}, Full: statsapi.PSIData{Total: 2000}}

func must(t *testing.T) func(*statsapi.Summary, error) *statsapi.Summary {
	return func(s *statsapi.Summary, err error) *statsapi.Summary {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

// TestCgroupsAlone: a runtime without statistics leaves everything to the kernel's files.
func TestCgroupsAlone(t *testing.T) {
	u := func(n uint64) *uint64 { return &n }
	for name, test := range map[string]struct {
		root string
		want statsapi.PodStats
	}{
		"v2": {unifiedTree(t), statsapi.PodStats{
			CPU:    &statsapi.CPUStats{UsageCoreNanoSeconds: u(3_000_000), PSI: someWait},
			Memory: &statsapi.MemoryStats{UsageBytes: u(800), WorkingSetBytes: u(500), AvailableBytes: u(1500), RSSBytes: u(200), PageFaults: u(4), MajorPageFaults: u(1)},
			IO:     &statsapi.IOStats{PSI: someWait}, ProcessStats: &statsapi.ProcessStats{ProcessCount: u(6)},
			Network: &statsapi.NetworkStats{
				InterfaceStats: statsapi.InterfaceStats{Name: "eth0", RxBytes: u(2000), RxErrors: u(3), TxBytes: u(4000), TxErrors: u(5)},
				Interfaces:     []statsapi.InterfaceStats{{Name: "eth0", RxBytes: u(2000), RxErrors: u(3), TxBytes: u(4000), TxErrors: u(5)}},
			},
			Swap: &statsapi.SwapStats{SwapUsageBytes: u(20), SwapAvailableBytes: u(30)},
			Containers: []statsapi.ContainerStats{{
				Name: "c", CPU: &statsapi.CPUStats{UsageCoreNanoSeconds: u(2_000_000)}, Swap: &statsapi.SwapStats{SwapUsageBytes: u(20), SwapAvailableBytes: u(30)},
				Memory: &statsapi.MemoryStats{UsageBytes: u(500), WorkingSetBytes: u(0), RSSBytes: u(100), PageFaults: u(0), MajorPageFaults: u(0)},
			}},
		}},
		"v1": {legacyTree(t), statsapi.PodStats{
			CPU:          &statsapi.CPUStats{UsageCoreNanoSeconds: u(3_000_000)},
			Memory:       &statsapi.MemoryStats{UsageBytes: u(800), WorkingSetBytes: u(500), AvailableBytes: u(1500), RSSBytes: u(200), PageFaults: u(4), MajorPageFaults: u(1)},
			ProcessStats: &statsapi.ProcessStats{ProcessCount: u(6)},
			Containers:   []statsapi.ContainerStats{{Name: "c"}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := provider(t, test.root, onePod(), nil)
			s := must(t)(p.Get(t.Context()))
			test.want.PodRef = statsapi.PodReference{Name: "pod", Namespace: "ns", UID: "p"}
			if len(s.Pods) != 1 {
				t.Fatalf("pods: %+v", s.Pods)
			}
			got := s.Pods[0]
			if got.StartTime.Unix() != 2 || got.Containers[0].StartTime.Unix() != 3 {
				t.Errorf("started at %v and %v", got.StartTime, got.Containers[0].StartTime)
			}
			got.EphemeralStorage = nil
			if diff := cmp.Diff(test.want, got, noTimes); diff != "" {
				t.Error(diff)
			}
			node := s.Node
			if *node.CPU.UsageCoreNanoSeconds != 5_000_000 || *node.Memory.WorkingSetBytes != 500<<10 || *node.Memory.AvailableBytes != 500<<10 ||
				*node.Memory.RSSBytes != 50<<10 || *node.Memory.PageFaults != 11 || *node.Swap.SwapUsageBytes != 6<<10 || node.StartTime.Unix() != 1700000000 {
				t.Errorf("node: %+v", node)
			}
			if *node.Rlimit.MaxPID != 1000 || *node.Rlimit.NumOfRunningProcesses != 99 || node.Network.Name != "eth0" || *node.Fs.CapacityBytes == 0 {
				t.Errorf("node: %+v", node)
			}
			if diff := cmp.Diff(someWait, node.CPU.PSI); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestUnlimited(t *testing.T) {
	m := open(t, legacyTree(t))
	u := m.Cgroup("/pods/unlimited")
	if u.Memory.AvailableBytes != nil || *u.Memory.WorkingSetBytes != 0 || u.Swap != nil {
		t.Errorf("memory %+v, swap %+v", u.Memory, u.Swap)
	}
	if _, ok := m.Child("/pods", "../pods"); ok {
		t.Error("an ID led out of the pod's cgroup")
	}
}

func TestNoCgroups(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{"proc/self/mountinfo": "1 1 0:1 / / rw - ext4 /dev/x rw\n"})
	if _, err := measure.Open(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open = %v", err)
	}
}

// rich is a runtime with statistics of everything.
func rich(layer string) *fakeRuntime {
	f := onePod()
	container := &runtimeapi.ContainerStats{
		Attributes:    &runtimeapi.ContainerAttributes{Id: "c1"},
		Cpu:           &runtimeapi.CpuUsage{Timestamp: 5e9, UsageCoreNanoSeconds: number(7), UsageNanoCores: number(8)},
		Memory:        &runtimeapi.MemoryUsage{Timestamp: 5e9, WorkingSetBytes: number(9)},
		Swap:          &runtimeapi.SwapUsage{Timestamp: 5e9, SwapUsageBytes: number(1), SwapAvailableBytes: number(2)},
		Io:            &runtimeapi.IoUsage{Timestamp: 5e9, Psi: &runtimeapi.PsiStats{Some: &runtimeapi.PsiData{Total: 3}}},
		WritableLayer: &runtimeapi.FilesystemUsage{Timestamp: 5e9, UsedBytes: number(100), InodesUsed: number(4), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: layer}},
	}
	f.pods = []*runtimeapi.PodSandboxStats{
		nil, {Attributes: &runtimeapi.PodSandboxAttributes{Id: "stranger"}},
		{Attributes: &runtimeapi.PodSandboxAttributes{Id: "s1"}, Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu:        &runtimeapi.CpuUsage{Timestamp: 5e9, UsageCoreNanoSeconds: number(70)},
			Memory:     &runtimeapi.MemoryUsage{Timestamp: 5e9, WorkingSetBytes: number(90), AvailableBytes: number(1 << 63)},
			Io:         &runtimeapi.IoUsage{Psi: &runtimeapi.PsiStats{}},
			Process:    &runtimeapi.ProcessUsage{ProcessCount: number(3)},
			Network:    &runtimeapi.NetworkUsage{DefaultInterface: &runtimeapi.NetworkInterfaceUsage{Name: "eth0", RxBytes: number(5)}, Interfaces: []*runtimeapi.NetworkInterfaceUsage{{Name: "eth0"}, {Name: "net1"}}},
			Containers: []*runtimeapi.ContainerStats{container},
		}},
	}
	f.filesystems = []*runtimeapi.FilesystemUsage{{UsedBytes: number(1000), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: layer}}}
	return f
}

// TestRuntimeFirst: what the runtime says counts, whatever the cgroups say.
func TestRuntimeFirst(t *testing.T) {
	p := provider(t, unifiedTree(t), rich(t.TempDir()), nil)
	s := must(t)(p.Get(t.Context()))
	pod := s.Pods[0]
	if *pod.CPU.UsageCoreNanoSeconds != 70 || *pod.Memory.WorkingSetBytes != 90 || pod.Memory.AvailableBytes != nil || *pod.ProcessStats.ProcessCount != 3 {
		t.Errorf("pod: %+v", pod)
	}
	if pod.Network.Name != "eth0" || len(pod.Network.Interfaces) != 2 || *pod.Swap.SwapAvailableBytes != 2 {
		t.Errorf("network %+v, swap %+v", pod.Network, pod.Swap)
	}
	c := pod.Containers[0]
	if *c.CPU.UsageNanoCores != 8 || c.CPU.Time.Unix() != 5 || *c.Memory.WorkingSetBytes != 9 || c.IO.PSI.Some.Total != 3 {
		t.Errorf("container: %+v", c)
	}
	if *c.Rootfs.UsedBytes != 100 || *c.Rootfs.InodesUsed != 4 || *c.Rootfs.CapacityBytes == 0 || *s.Node.Runtime.ImageFs.UsedBytes != 1000 || *s.Node.Runtime.ContainerFs.CapacityBytes == 0 {
		t.Errorf("filesystems: %+v, %+v", c.Rootfs, s.Node.Runtime.ImageFs)
	}
	if i := len(s.Node.SystemContainers) - 1; i < 0 || s.Node.SystemContainers[i].Name != "pods" || *s.Node.SystemContainers[i].CPU.UsageCoreNanoSeconds != 4_000_000 {
		t.Errorf("system containers: %+v", s.Node.SystemContainers)
	}
}

// TestContainersOnly: a runtime that has statistics of containers and none of pods.
func TestContainersOnly(t *testing.T) {
	f := rich(t.TempDir())
	f.single = f.pods[2].Linux.Containers
	f.pods = nil
	s := must(t)(provider(t, unifiedTree(t), f, nil).Get(t.Context()))
	if pod := s.Pods[0]; *pod.CPU.UsageCoreNanoSeconds != 3_000_000 || *pod.Containers[0].CPU.UsageCoreNanoSeconds != 7 {
		t.Errorf("pod: %+v", pod)
	}
}

func TestSmall(t *testing.T) {
	p := provider(t, unifiedTree(t), rich(t.TempDir()), nil)
	s := must(t)(p.GetCPUAndMemory(t.Context()))
	pod, node := s.Pods[0], s.Node
	if pod.CPU == nil || pod.Memory == nil || pod.Swap == nil || node.CPU == nil || node.Memory == nil {
		t.Errorf("CPU or memory is missing: %+v", pod)
	}
	if pod.Network != nil || pod.EphemeralStorage != nil || pod.VolumeStats != nil || pod.IO != nil || pod.Containers[0].Rootfs != nil || pod.Containers[0].IO != nil ||
		node.Fs != nil || node.Network != nil || node.Runtime != nil || node.IO != nil {
		t.Errorf("there is more than CPU and memory: %+v", s)
	}
}

// TestDisks: logs and volumes count as ephemeral storage, memory does not.
func TestDisks(t *testing.T) {
	logs, kubelet := t.TempDir(), t.TempDir()
	files(t, logs, map[string]string{"ns_pod_p/c/0.log": strings.Repeat("x", 5000)})
	files(t, kubelet, map[string]string{
		"pods/p/volumes/kubernetes.io~empty-dir/data/big":   strings.Repeat("x", 50000),
		"pods/p/volumes/kubernetes.io~empty-dir/memory/big": strings.Repeat("x", 90000),
		"pods/p/volumes/kubernetes.io~empty-dir/pages/big":  strings.Repeat("x", 90000),
	})
	spec := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "p"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		{Name: "pages", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "HugePages-2Mi"}}},
		{Name: "absent", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}},
	}}}
	p := provider(t, unifiedTree(t), rich(t.TempDir()), func(o *Options) {
		o.PodLogsDir, o.RootDir, o.Pods = logs, kubelet, func() []*corev1.Pod { return []*corev1.Pod{spec} }
	})
	pod := must(t)(p.Get(t.Context())).Pods[0]
	used := map[string]uint64{"logs": *pod.Containers[0].Logs.UsedBytes, "sum": *pod.EphemeralStorage.UsedBytes}
	for _, v := range pod.VolumeStats {
		used[v.Name] = *v.UsedBytes
	}
	if len(pod.VolumeStats) != 3 || used["logs"] < 5000 || used["logs"] > 30000 || used["data"] < 50000 || used["data"] > 80000 {
		t.Errorf("used: %v", used)
	}
	if want := used["logs"] + used["data"] + 100; used["sum"] != want {
		t.Errorf("ephemeral storage %d, want %d", used["sum"], want)
	}
}

func TestRates(t *testing.T) {
	r, start := newRates(), time.Now()
	ask := func(key string, after time.Duration, nanos uint64) *uint64 {
		cpu := &statsapi.CPUStats{Time: metav1.NewTime(start.Add(after)), UsageCoreNanoSeconds: &nanos}
		r.fill(key, cpu)
		return cpu.UsageNanoCores
	}
	if got := ask("a", 0, 1e9); got != nil {
		t.Errorf("the first reading gives a rate: %d", *got)
	}
	if got := ask("a", 2*time.Second, 2e9); got == nil || *got != 5e8 {
		t.Errorf("half a CPU became %v", got)
	}
	ask("a", 11*time.Second, 3e9)
	if got := ask("a", 11*time.Second+time.Millisecond, 3e9); got == nil || *got > 2e8 || *got < 1.8e8 {
		t.Errorf("asked again at once: %v, want the average of 11 s", got)
	}
	if got := ask("a", 13*time.Second, 5); got != nil {
		t.Errorf("a counter that went back gives %d", *got)
	}
	if got := ask("a", time.Hour, 1e9); got != nil {
		t.Errorf("after an hour: %d", *got)
	}
	r.forget(start.Add(2 * time.Hour))
	if len(r.known) != 0 {
		t.Errorf("kept: %v", r.known)
	}
}

func TestHandlers(t *testing.T) {
	f := rich(t.TempDir())
	p := provider(t, unifiedTree(t), f, nil)
	var s statsapi.Summary
	if err := json.Unmarshal([]byte(body(t, p.Summary(), "/stats/summary")), &s); err != nil || s.Node.NodeName != "node" || len(s.Pods) != 1 || s.Node.Fs == nil {
		t.Errorf("%+v, %v", s, err)
	}
	s = statsapi.Summary{}
	if err := json.Unmarshal([]byte(body(t, p.Summary(), "/stats/summary?only_cpu_and_memory=true")), &s); err != nil || len(s.Pods) != 1 || s.Node.Fs != nil {
		t.Errorf("%+v, %v", s, err)
	}
	f.err = errors.New("away")
	for _, h := range []http.Handler{p.Summary(), p.Resource()} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if w.Code != http.StatusInternalServerError && !strings.Contains(w.Body.String(), "\nresource_scrape_error 1\n") {
			t.Errorf("without a runtime: %d %s", w.Code, w.Body)
		}
	}
}

func TestResource(t *testing.T) {
	text := body(t, provider(t, unifiedTree(t), rich(t.TempDir()), nil).Resource(), "/metrics/resource")
	wantLines(t, text, "node_cpu_usage_seconds_total 0.005 ", "node_memory_working_set_bytes 512000 ", "node_swap_usage_bytes 6144 ", "resource_scrape_error 0\n",
		`container_cpu_usage_seconds_total{container="c",namespace="ns",pod="pod"} 7e-09 5000`,
		`container_memory_working_set_bytes{container="c",namespace="ns",pod="pod"} 9 5000`,
		`container_start_time_seconds{container="c",namespace="ns",pod="pod"} 3`,
		`container_swap_usage_bytes{container="c",namespace="ns",pod="pod"} 1 `, `container_swap_limit_bytes{container="c",namespace="ns",pod="pod"} 3 `,
		`pod_cpu_usage_seconds_total{namespace="ns",pod="pod"} 7e-08 5000`, `pod_memory_working_set_bytes{namespace="ns",pod="pod"} 90 `, `pod_swap_usage_bytes{namespace="ns",pod="pod"} 1 `)
}

func TestCadvisorBasics(t *testing.T) {
	text := body(t, provider(t, unifiedTree(t), rich(t.TempDir()), nil).Cadvisor(), "/metrics/cadvisor")
	const c = `container="c",`
	const of = `id="/pods/p/cri-c1.scope",image="image:1",`
	wantLines(t, text, `machine_cpu_cores{boot_id="",machine_id="m1",system_uuid=""} 2`, `machine_memory_bytes{boot_id="",machine_id="m1",system_uuid=""} 1.024e+06`,
		`container_cpu_usage_seconds_total{`+c+`cpu="total",`+of+`name="c1",namespace="ns",pod="pod"} 7e-09 `,
		`container_memory_working_set_bytes{`+c+of+`name="c1",namespace="ns",pod="pod"} 9 `,
		`container_fs_usage_bytes{`+c+`device="",`+of+`name="c1",namespace="ns",pod="pod"} 100 `,
		`container_pressure_io_waiting_seconds_total{`+c+of+`name="c1",namespace="ns",pod="pod"} 3e-09 `,
		`container_network_receive_bytes_total{container="",id="/pods/p",image="",interface="eth0",name="",namespace="ns",pod="pod"} 5 `,
		`container_cpu_usage_seconds_total{container="",cpu="total",id="/",image="",name="",namespace="",pod=""} 0.005 `)
}

// TestCadvisorAlike: all that is told of a container has the same labels, by which users divide one by the other; whole
// seconds are no measure; the runtime is not asked for metrics of its own.
func TestCadvisorAlike(t *testing.T) {
	root := unifiedTree(t)
	const box = "sys/fs/cgroup/pods/p/cri-c1.scope/"
	files(t, root, map[string]string{
		box + "cpu.stat": "usage_usec 2000\nuser_usec 1500\nsystem_usec 500\nnr_periods 9\nnr_throttled 4\nthrottled_usec 250\n",
		box + "cpu.max":  "50000 100000\n", box + "memory.max": "4096\n", box + "pids.current": "2\n", box + "pids.max": "7\n",
	})
	text := body(t, provider(t, root, rich(t.TempDir()), nil).Cadvisor(), "/metrics/cadvisor")
	const is = `container="c",id="/pods/p/cri-c1.scope",image="image:1",`
	const rest = `name="c1",namespace="ns",pod="pod"} `
	wantLines(t, text, "container_memory_working_set_bytes{"+is+rest+"9 ", "container_spec_memory_limit_bytes{"+is+rest+"4096",
		"container_spec_cpu_quota{"+is+rest+"50000", "container_spec_cpu_period{"+is+rest+"100000", "container_cpu_user_seconds_total{"+is+rest+"0.0015",
		"container_cpu_cfs_periods_total{"+is+rest+"9", "container_cpu_cfs_throttled_periods_total{"+is+rest+"4", "container_cpu_cfs_throttled_seconds_total{"+is+rest+"0.00025",
		"container_threads_max{"+is+rest+"7", "container_last_seen{"+is+rest,
		`container_memory_failures_total{container="",failure_type="pgfault",id="/",image="",name="",namespace="",pod="",scope="container"} 11`,
		`container_network_receive_packets_total{container="",id="/pods/p",image="",interface="eth0",name="",namespace="ns",pod="pod"} 20`,
		`container_network_transmit_packets_dropped_total{container="",id="/",image="",interface="eth0",name="",namespace="",pod=""} 0`,
		`container_fs_limit_bytes{container="",device="",id="/",image="",name="",namespace="",pod=""} `)
	for line := range strings.Lines(text) {
		if strings.Contains(line, `container="c"`) && !strings.Contains(line, `id="/pods/p/cri-c1.scope",image="image:1",`) {
			t.Errorf("other labels: %s", line)
		}
	}
}

// TestCadvisorSystem: the cgroups of all pods, of the kubelet and of the runtime are there under their paths, each once.
func TestCadvisorSystem(t *testing.T) {
	root := unifiedTree(t)
	files(t, root, map[string]string{
		fmt.Sprintf("proc/%d/cgroup", os.Getpid()): "0::/system.slice/kubelet.service\n", "sys/fs/cgroup/system.slice/kubelet.service/cpu.stat": "usage_usec 6000\n",
		"sys/fs/cgroup/system.slice/kubelet.service/memory.current": "700\n", "sys/fs/cgroup/system.slice/kubelet.service/memory.stat": "anon 1\n",
		"sys/fs/cgroup/system.slice/kubelet.service/memory.max": "max\n",
	})
	p := provider(t, root, rich(t.TempDir()), func(o *Options) { o.RuntimeCgroup = "system.slice/kubelet.service" })
	text := body(t, p.Cadvisor(), "/metrics/cadvisor")
	const rest = `,image="",name="",namespace="",pod=""} `
	wantLines(t, text, `container_memory_working_set_bytes{container="",id="/pods"`+rest+"900 ", `container_cpu_usage_seconds_total{container="",cpu="total",id="/pods"`+rest+"0.004 ",
		`container_memory_usage_bytes{container="",id="/system.slice/kubelet.service"`+rest+"700 ", `container_cpu_usage_seconds_total{container="",cpu="total",id="/system.slice/kubelet.service"`+rest+"0.006 ")
}

// TestCadvisorOneReading: bytes and packets of an interface are of one moment, of the node and of a pod whose runtime tells
// nothing of it.
func TestCadvisorOneReading(t *testing.T) {
	root := unifiedTree(t)
	p := provider(t, root, onePod(), func(o *Options) { o.MaxAge = time.Hour })
	if _, err := p.Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	later := strings.ReplaceAll(netDev, "    20    3", "    99    3")
	files(t, root, map[string]string{"proc/self/net/dev": later, "proc/77/net/dev": later})
	text := body(t, p.Cadvisor(), "/metrics/cadvisor")
	for _, of := range []string{`id="/",image="",interface="eth0",name="",namespace="",pod=""} `, `id="/pods/p",image="",interface="eth0",name="",namespace="ns",pod="pod"} `} {
		wantLines(t, text, `container_network_receive_bytes_total{container="",`+of+"2000 ", `container_network_receive_packets_total{container="",`+of+"20\n")
	}
}

func TestCollector(t *testing.T) {
	logs, f := t.TempDir(), onePod()
	files(t, logs, map[string]string{"ns_pod_p/c/0.log": strings.Repeat("x", 5000)})
	p := provider(t, unifiedTree(t), f, func(o *Options) { o.PodLogsDir, o.MaxAge = logs, time.Hour })
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(p.Collector())
	f.err = errors.New("away")
	if n, err := testutil.GatherAndCount(registry); n != 0 || err != nil {
		t.Errorf("%d metrics before anything is known, %v", n, err)
	}
	f.err = nil
	if n, err := testutil.GatherAndCount(registry, "kubelet_container_log_filesystem_used_bytes"); n != 1 || err != nil {
		t.Errorf("logs of %d containers, %v", n, err)
	}
	v := statsapi.VolumeStats{Name: "v", PVCRef: &statsapi.PVCReference{Namespace: "ns", Name: "claim"}, FsStats: statsapi.FsStats{CapacityBytes: new(uint64(10)), UsedBytes: new(uint64(4))}}
	pod := statsapi.PodStats{VolumeStats: []statsapi.VolumeStats{v, {Name: "other"}}}
	p.latest[false] = &snapshot{at: time.Now(), Summary: statsapi.Summary{Pods: []statsapi.PodStats{pod, pod}}}
	want := `
# HELP kubelet_volume_stats_capacity_bytes Bytes the volume can hold.
# TYPE kubelet_volume_stats_capacity_bytes gauge
kubelet_volume_stats_capacity_bytes{namespace="ns",persistentvolumeclaim="claim"} 10
# HELP kubelet_volume_stats_used_bytes Bytes used in the volume.
# TYPE kubelet_volume_stats_used_bytes gauge
kubelet_volume_stats_used_bytes{namespace="ns",persistentvolumeclaim="claim"} 4
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// TestRun: the node's usage per second is known to the first request.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := provider(t, unifiedTree(t), onePod(), nil)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { p.Run(ctx) })
		time.Sleep(rateWindow + 5*time.Second)
		s := must(t)(p.Get(t.Context()))
		if s.Node.CPU.UsageNanoCores == nil || s.Node.SystemContainers[len(s.Node.SystemContainers)-1].CPU.UsageNanoCores == nil {
			t.Errorf("usage per second is not known: %+v", s.Node)
		}
		cancel()
		running.Wait()
	})
}

// TestOneAnswerForAll: requests at the same time, or soon after, cost nothing, and one that is given up does not disturb the others.
func TestOneAnswerForAll(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	f := onePod()
	f.gate = make(chan struct{})
	p := provider(t, unifiedTree(t), f, func(o *Options) { o.MaxAge = time.Hour })
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { _, err := p.Get(ctx); left <- err }()
	f.gate <- struct{}{} // it has begun to ask the runtime
	close(f.gate)        // and a second question would be counted, not waited for
	leave()
	if err := <-left; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the one that left: %v", err)
	}
	for range 3 {
		must(t)(p.Get(t.Context()))
	}
	if f.calls != 1 {
		t.Errorf("the runtime was asked %d times", f.calls)
	}
}
