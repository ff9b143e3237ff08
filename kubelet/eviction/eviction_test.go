package eviction

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/cgroups"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"minikubelet/e2e/crifake"
	"minikubelet/kubelet/measure"
	"minikubelet/kubelet/settings"
	"minikubelet/runtime/criserver/diskusage"
)

// world is a machine with a manager; its pods end as long after they were killed as goes says.
type world struct {
	*Manager
	t      *testing.T
	proc   string
	events *record.FakeRecorder
	goes   time.Duration

	mu      sync.Mutex
	pods    []*corev1.Pod
	cleaned map[types.UID]chan struct{}
	did     []string // what was done, in order
	memory  map[types.UID]int64
}

// The cgroups of these tests are files in a directory, which the library refuses to read otherwise.
func init() { cgroups.TestMode = true }

func newWorld(t *testing.T, config string, pods ...*corev1.Pod) *world {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "kubelet.yaml")
	text := "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n" + config
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := settings.Load([]string{"--config=" + file, "--hostname-override=node-1", "--node-ip=192.0.2.1", "--root-dir=" + dir}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, proc: filepath.Join(dir, "proc"), events: record.NewFakeRecorder(1000), goes: 2 * time.Second,
		pods: pods, cleaned: map[types.UID]chan struct{}{}, memory: map[types.UID]int64{},
	}
	for _, pod := range pods {
		w.cleaned[pod.UID] = make(chan struct{})
	}
	w.file("sys/kernel/pid_max", "32768\n")
	w.file("sys/kernel/threads-max", "1000\n")
	w.file("stat", "cpu  1 0 0 0 0 0 0 0 0 0\nbtime 1700000000\n")
	w.file("self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n")
	w.file("loadavg", "0.1 0.2 0.3 1/100 12345\n")
	w.free(1000)
	machine, err := measure.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	w.Manager = New(Options{
		Settings: s, CRI: crifake.New().Direct(), Events: w.events, Node: func() *corev1.ObjectReference { return &corev1.ObjectReference{Kind: "Node", Name: "node-1"} },
		PodsDir: filepath.Join(dir, "pods"), PodLogsDir: filepath.Join(dir, "logs"), Machine: machine, Disk: diskusage.NewDisk(t.Context()),
		ActivePods: w.active, Kill: w.kill,
		Cleaned:     func(uid types.UID) <-chan struct{} { return w.cleaned[uid] },
		SetPressure: func([]corev1.NodeConditionType) {},
		DeleteUnusedContainers: func(context.Context) error {
			w.note("containers")
			return errors.New("busy")
		},
		DeleteUnusedImages: func(context.Context) error { w.note("images"); return nil },
		PodUsage: func(pod *corev1.Pod) (int64, int64, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.memory[pod.UID], 1, nil
		},
	})
	if err := os.MkdirAll(w.PodsDir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.observer.imageFs, w.observer.containerFs = dir, dir
	return w
}

func (w *world) file(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.proc, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		w.t.Fatal(err)
	}
}

// free sets how many of 1000 kB of memory are.
func (w *world) free(kb int64) {
	w.t.Helper()
	inactive := min(kb, 100)
	w.file("meminfo", fmt.Sprintf("MemTotal: 1000 kB\nMemFree: %d kB\nInactive(file): %d kB\nHugePages_Total: 0\n", kb-inactive, inactive))
}

func (w *world) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.did = append(w.did, what)
}

func (w *world) active() []*corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.pods)
}

func (w *world) kill(_ context.Context, e Eviction) {
	grace := "own"
	if e.GracePeriod != nil {
		grace = fmt.Sprint(*e.GracePeriod)
	}
	w.note(e.Pod.Name + "/" + grace)
	time.AfterFunc(w.goes, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.pods = slices.DeleteFunc(w.pods, func(pod *corev1.Pod) bool { return pod.UID == e.Pod.UID })
		close(w.cleaned[e.Pod.UID])
	})
}

func (w *world) want(after time.Duration, did string, pressure ...corev1.NodeConditionType) {
	w.t.Helper()
	time.Sleep(after)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := strings.Join(w.did, " "); got != did {
		w.t.Errorf("did %q, want %q", got, did)
	}
	w.did = nil
	if got := w.Pressure(); !slices.Equal(got, pressure) {
		w.t.Errorf("pressure %v, want %v", got, pressure)
	}
}

// told returns the events as "Reason message".
func (w *world) told() (out []string) {
	for {
		select {
		case e := <-w.events.Events:
			out = append(out, e)
		default:
			return out
		}
	}
}

// TestMemory: one pod after the other goes, each when the one before is gone, critical ones never.
func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		static, system := podOf("static", 0, "", ""), podOf("system", 2_000_000_000, "", "")
		static.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
		w := newWorld(t, "evictionHard: {memory.available: 100Ki}\nevictionPressureTransitionPeriod: 30s\n",
			podOf("modest", 0, "500Ki", ""), podOf("greedy", 0, "10Ki", ""), podOf("second", 0, "10Ki", ""), static, system)
		w.memory = map[types.UID]int64{"modest": 400 << 10, "greedy": 300 << 10, "second": 100 << 10, "static": 900 << 10, "system": 900 << 10}
		go w.Run(t.Context())
		w.want(5*time.Second, "")
		w.free(101)
		w.want(10*time.Second, "")
		w.free(99)
		w.want(6*time.Second, "greedy/1", corev1.NodeMemoryPressure)
		if got := w.told(); len(got) != 2 || got[0] != "Warning EvictionThresholdMet Attempting to reclaim memory" ||
			!strings.HasPrefix(got[1], "Warning Evicted The node was low on resource: memory. Threshold quantity: 100Ki, available: 99Ki. ") {
			t.Errorf("events %q", got)
		}
		w.want(2*time.Second, "second/1", corev1.NodeMemoryPressure)
		w.want(2*time.Second, "modest/1", corev1.NodeMemoryPressure)
		w.want(20*time.Second, "", corev1.NodeMemoryPressure)
		w.free(500)
		w.want(20*time.Second, "", corev1.NodeMemoryPressure)
		w.want(20*time.Second, "")
	})
}

// TestSlowEnd: a pod that takes its time keeps others from being evicted for half a minute, and is not evicted twice.
func TestSlowEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "evictionHard: {memory.available: 100Ki}\n", podOf("a", 0, "", ""), podOf("b", 1, "", ""))
		w.memory = map[types.UID]int64{"a": 1, "b": 1}
		w.goes = 50 * time.Second
		w.free(99)
		go w.Run(t.Context())
		w.want(29*time.Second, "a/1", corev1.NodeMemoryPressure)
		w.want(2*time.Second, "b/1", corev1.NodeMemoryPressure)
		w.want(time.Minute, "", corev1.NodeMemoryPressure)
	})
}

func TestSoft(t *testing.T) {
	for _, tt := range []struct {
		setting string
		own     *int64
		want    string
	}{
		{"evictionMaxPodGracePeriod: 60", new(int64(20)), "a/20"},
		{"evictionMaxPodGracePeriod: 10", new(int64(20)), "a/10"},
		{"evictionMaxPodGracePeriod: 10", nil, "a/10"},
		{"evictionMaxPodGracePeriod: -1", new(int64(20)), "a/own"},
		{"", new(int64(20)), "a/0"},
	} {
		synctest.Test(t, func(t *testing.T) {
			pod := podOf("a", 0, "", "")
			pod.Spec.TerminationGracePeriodSeconds = tt.own
			w := newWorld(t, "evictionHard: {}\nevictionSoft: {memory.available: 10%}\nevictionSoftGracePeriod: {memory.available: 25s}\n"+tt.setting+"\n", pod)
			w.memory["a"] = 1
			w.free(99)
			go w.Run(t.Context())
			w.want(25*time.Second, "", corev1.NodeMemoryPressure)
			w.want(6*time.Second, tt.want, corev1.NodeMemoryPressure)
		})
	}
}

// TestDisk: what is not needed goes before pods do; the ranking is by files.
func TestDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "evictionHard: {nodefs.available: 99.999%}\n", podOf("a", 0, "", ""), podOf("b", 0, "", ""))
		for name, size := range map[string]int{"a": 1, "b": 100_000} {
			dir := filepath.Join(w.PodLogsDir, "ns_"+name+"_"+name, "app")
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "0.log"), make([]byte, size), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		go w.Run(t.Context())
		w.want(time.Second, "containers images b/1", corev1.NodeDiskPressure)
		w.want(2*time.Second, "containers images a/1", corev1.NodeDiskPressure)
	})
}

func TestPIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "evictionHard: {pid.available: 10%}\n", podOf("a", 0, "", ""))
		w.file("stat", "cpu  1 0 0 0 0 0 0 0 0 0\nbtime 1700000000\n")
		w.file("self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n")
		w.file("loadavg", "0.1 0.2 0.3 1/901 12345\n")
		go w.Run(t.Context())
		w.want(time.Second, "a/1", corev1.NodePIDPressure)
	})
}

// TestLimits: a pod over a limit of its own goes although there is enough of everything, and is measured at most every
// so often.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod, other := podOf("a", 0, "", ""), podOf("b", 0, "", "")
		limit := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: new(resource.MustParse("10Ki"))}}
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: limit}}
		other.Spec.Volumes = pod.Spec.Volumes
		w := newWorld(t, "evictionHard: {}\n", pod, other)
		dir := filepath.Join(w.PodsDir, "a/volumes/kubernetes.io~empty-dir/v")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		go w.Run(t.Context())
		w.want(11*time.Second, "")
		if err := os.WriteFile(filepath.Join(dir, "x"), make([]byte, 20_000), 0o600); err != nil {
			t.Fatal(err)
		}
		w.want(10*time.Second, "a/1")
		if got := w.told(); len(got) != 1 || got[0] != `Warning Evicted Usage of EmptyDir volume "v" exceeds the limit "10Ki". ` {
			t.Errorf("events %q", got)
		}
	})
}

// TestReconfigure: without thresholds and limits nothing is looked at, until there are some. Thresholds that are taken away
// end no more pods.
func TestReconfigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "evictionHard: {}\nevictionPressureTransitionPeriod: 30s\nlocalStorageCapacityIsolation: false\n", podOf("a", 0, "10Ki", ""), podOf("b", 0, "20Ki", ""))
		w.memory = map[types.UID]int64{"a": 300 << 10, "b": 200 << 10}
		w.free(0)
		go w.Run(t.Context())
		w.want(time.Minute, "")
		none := w.Settings
		some := *none
		some.EvictionHard = map[string]string{"memory.available": "100Ki"}
		w.Reconfigure(&some)
		w.want(time.Second, "a/1", corev1.NodeMemoryPressure)
		w.Reconfigure(none)
		w.want(time.Minute, "")
	})
}

// TestUnreadable: what cannot be observed is no reason for anything.
func TestUnreadable(t *testing.T) {
	w := newWorld(t, "", podOf("a", 0, "", ""))
	for _, name := range []string{"meminfo", "loadavg"} {
		w.file(name, "nonsense in it\n")
	}
	w.observer.imageFs = "/does/not/exist"
	w.observer.podMemory = func() (int64, int64, error) { return 0, 0, errors.New("no cgroup") }
	o, _ := w.observer.observe(t.Context())
	for _, signal := range []string{signalMemory, signalPIDs, signalImageFs, signalAllocatableMemory} {
		if seen, ok := o[signal]; ok {
			t.Errorf("%s is %v", signal, seen)
		}
	}
	if seen := o[signalNodeFs]; seen.capacity <= 0 {
		t.Errorf("the node's filesystem is %v", seen)
	}
	w.observer.podMemory = func() (int64, int64, error) { return 30, 100, nil }
	if o, _ := w.observer.observe(t.Context()); o[signalAllocatableMemory] != (observation{70, 100}) {
		t.Errorf("all pods' memory is %v", o[signalAllocatableMemory])
	}
}

// TestStalls: the kernel's file takes the trigger, and the watch ends with its context.
func TestStalls(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	machine, err := measure.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	if watchStalls(ctx, machine) == nil {
		t.Skip("the kernel has no pressure stall information, or does not let us set triggers")
	}
}
