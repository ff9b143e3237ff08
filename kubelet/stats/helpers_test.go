package stats

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/kubelet/measure"
	"minikubelet/runtime/cri"
)

// The cgroups of these tests are files in a directory, which the library refuses to read otherwise.
func init() { cgroups.TestMode = true }

func open(t *testing.T, root string) *measure.Machine {
	t.Helper()
	m, err := measure.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// files writes a tree; contents by path.
func files(t *testing.T, root string, tree map[string]string) {
	t.Helper()
	for path, content := range tree {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const pressure = "some avg10=1.00 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2\n"

// proc is what every machine has.
var proc = map[string]string{
	"proc/meminfo":                "MemTotal: 1000 kB\nMemFree: 400 kB\nInactive(file): 100 kB\nAnonPages: 50 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n",
	"proc/vmstat":                 "pgfault 11\npgmajfault 3\n",
	"proc/stat":                   "cpu  1 0 0 0 0 0 0 0 0 0\ncpu0 1 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\nbtime 1700000000\n",
	"proc/loadavg":                "0 0 0 1/99 5\n",
	"etc/machine-id":              "m1\n",
	"proc/sys/kernel/pid_max":     "4194304\n",
	"proc/sys/kernel/threads-max": "1000\n",
	"proc/pressure/cpu":           pressure,
	"proc/self/net/dev":           netDev,
	"proc/self/net/route":         "Iface Destination Gateway Flags RefCnt Use Metric Mask\neth0 00000000 1 3 0 0 0 00000000\n",
}

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    2000      20    3    0    0     0          0         0     4000      40    5    0    0     0       0          0
veth12:       7       1    0    0    0     0          0         0        7       1    0    0    0     0       0          0
`

// unifiedTree is a machine with cgroup v2 and one pod "p" with the container "c1".
func unifiedTree(t *testing.T) string {
	root := t.TempDir()
	files(t, root, proc)
	files(t, root, map[string]string{
		"proc/self/mountinfo":                                   "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
		"sys/fs/cgroup/cpu.stat":                                "usage_usec 5000\nuser_usec 1\n",
		"sys/fs/cgroup/pods/cpu.stat":                           "usage_usec 4000\n",
		"sys/fs/cgroup/pods/memory.current":                     "900\n",
		"sys/fs/cgroup/pods/memory.max":                         "max\n",
		"sys/fs/cgroup/pods/memory.stat":                        "anon 1\n",
		"sys/fs/cgroup/pods/p/cpu.stat":                         "usage_usec 3000\n",
		"sys/fs/cgroup/pods/p/cpu.pressure":                     pressure,
		"sys/fs/cgroup/pods/p/io.pressure":                      pressure,
		"sys/fs/cgroup/pods/p/memory.current":                   "800\n",
		"sys/fs/cgroup/pods/p/memory.max":                       "2000\n",
		"sys/fs/cgroup/pods/p/memory.stat":                      "anon 200\ninactive_file 300\npgfault 4\npgmajfault 1\n",
		"sys/fs/cgroup/pods/p/pids.current":                     "6\n",
		"sys/fs/cgroup/pods/p/pids.max":                         "max\n",
		"sys/fs/cgroup/pods/p/box.scope/cgroup.procs":           "77\n",
		"sys/fs/cgroup/pods/p/cri-c1.scope/cpu.stat":            "usage_usec 2000\n",
		"sys/fs/cgroup/pods/p/cri-c1.scope/memory.current":      "500\n",
		"sys/fs/cgroup/pods/p/cri-c1.scope/memory.max":          "max\n",
		"sys/fs/cgroup/pods/p/cri-c1.scope/memory.stat":         "anon 100\ninactive_file 600\n",
		"sys/fs/cgroup/pods/p/cri-c1.scope/memory.swap.max":     "50\n",
		"sys/fs/cgroup/pods/p/cri-c1.scope/memory.swap.current": "20\n",
		"proc/77/net/dev":                                       netDev,
		"proc/77/net/route":                                     "",
	})
	for pid, ns := range map[string]string{"self": "net:[1]", "77": "net:[2]"} {
		dir := filepath.Join(root, "proc", pid, "ns")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(ns, filepath.Join(dir, "net")); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// legacyTree is the same with cgroup v1, and v2 without controllers beside it.
func legacyTree(t *testing.T) string {
	root := t.TempDir()
	files(t, root, proc)
	const options = " rw,nosuid - cgroup cgroup rw,"
	files(t, root, map[string]string{
		"proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n" +
			"31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct" + options + "cpu,cpuacct\n32 23 0:28 / /sys/fs/cgroup/memory" + options + "memory\n" +
			"33 23 0:28 / /longer/sys/fs/cgroup/memory" + options + "memory\n34 23 0:29 / /sys/fs/cgroup/pids" + options + "pids\n",
		"sys/fs/cgroup/cpu,cpuacct/cpuacct.usage":                             "5000000\n",
		"sys/fs/cgroup/cpu,cpuacct/cpuacct.usage_percpu":                      "5000000\n",
		"sys/fs/cgroup/cpu,cpuacct/cpuacct.stat":                              "user 1\nsystem 2\n",
		"sys/fs/cgroup/cpu,cpuacct/pods/p/cpuacct.usage":                      "3000000\n",
		"sys/fs/cgroup/cpu,cpuacct/pods/p/cpuacct.usage_percpu":               "3000000\n",
		"sys/fs/cgroup/cpu,cpuacct/pods/p/cpuacct.stat":                       "user 1\nsystem 2\n",
		"sys/fs/cgroup/memory/release_agent":                                  "\n",
		"sys/fs/cgroup/pids/pods/p/pids.max":                                  "max\n",
		"sys/fs/cgroup/memory/pods/p/memory.usage_in_bytes":                   "800\n",
		"sys/fs/cgroup/memory/pods/p/memory.limit_in_bytes":                   "2000\n",
		"sys/fs/cgroup/memory/pods/p/memory.memsw.limit_in_bytes":             "2100\n",
		"sys/fs/cgroup/memory/pods/p/memory.stat":                             "inactive_file 1\ntotal_inactive_file 300\ntotal_rss 200\ntotal_swap 30\ntotal_pgfault 4\ntotal_pgmajfault 1\n",
		"sys/fs/cgroup/memory/pods/p/memory.max_usage_in_bytes":               "900\n",
		"sys/fs/cgroup/memory/pods/p/memory.failcnt":                          "0\n",
		"sys/fs/cgroup/memory/pods/p/memory.use_hierarchy":                    "1\n",
		"sys/fs/cgroup/memory/pods/p/memory.memsw.usage_in_bytes":             "830\n",
		"sys/fs/cgroup/memory/pods/p/memory.memsw.max_usage_in_bytes":         "900\n",
		"sys/fs/cgroup/memory/pods/p/memory.memsw.failcnt":                    "0\n",
		"sys/fs/cgroup/memory/pods/unlimited/memory.max_usage_in_bytes":       "900\n",
		"sys/fs/cgroup/memory/pods/unlimited/memory.failcnt":                  "0\n",
		"sys/fs/cgroup/memory/pods/unlimited/memory.use_hierarchy":            "1\n",
		"sys/fs/cgroup/memory/pods/unlimited/memory.memsw.usage_in_bytes":     "830\n",
		"sys/fs/cgroup/memory/pods/unlimited/memory.memsw.max_usage_in_bytes": "900\n",
		"sys/fs/cgroup/memory/pods/unlimited/memory.memsw.failcnt":            "0\n",
		"sys/fs/cgroup/memory/pods/unlimited/memory.memsw.limit_in_bytes":     "9223372036854771712\n",
		"sys/fs/cgroup/pids/pods/p/pids.current":                              "6\n",
		"sys/fs/cgroup/memory/pods/unlimited/memory.usage_in_bytes":           "800\n",
		"sys/fs/cgroup/memory/pods/unlimited/memory.limit_in_bytes":           "9223372036854771712\n",
		"sys/fs/cgroup/memory/pods/unlimited/memory.stat":                     "total_inactive_file 900\n",
	})
	return root
}

// fakeRuntime answers from its fields; a nil list is Unimplemented.
type fakeRuntime struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient
	sandboxes   []*runtimeapi.PodSandbox
	containers  []*runtimeapi.Container
	pods        []*runtimeapi.PodSandboxStats
	single      []*runtimeapi.ContainerStats
	filesystems []*runtimeapi.FilesystemUsage
	err         error
	calls       int
	gate        chan struct{} // the first list waits for it, if there is one
}

var errNone = status.Error(codes.Unimplemented, "none here")

func (f *fakeRuntime) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	f.calls++
	if f.gate != nil {
		<-f.gate
	}
	return &runtimeapi.ListPodSandboxResponse{Items: f.sandboxes}, f.err
}

func (f *fakeRuntime) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: f.containers}, f.err
}

func (f *fakeRuntime) ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	if f.pods == nil {
		return nil, errNone
	}
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: f.pods}, nil
}

func (f *fakeRuntime) ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest, ...grpc.CallOption) (*runtimeapi.ListContainerStatsResponse, error) {
	if f.single == nil {
		return nil, errNone
	}
	return &runtimeapi.ListContainerStatsResponse{Stats: f.single}, nil
}

func (f *fakeRuntime) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest, ...grpc.CallOption) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: f.filesystems}, nil
}

// onePod is a runtime that runs the pod "p" with the container "c", and has no statistics.
func onePod() *fakeRuntime {
	return &fakeRuntime{
		sandboxes: []*runtimeapi.PodSandbox{
			{Id: "older", CreatedAt: 1, Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "ns", Uid: "p"}},
			{Id: "s1", CreatedAt: 2e9, Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "ns", Uid: "p"}},
			{Id: "stranger"},
		},
		containers: []*runtimeapi.Container{
			{Id: "c1", PodSandboxId: "s1", CreatedAt: 3e9, Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "sha256:1", UserSpecifiedImage: "image:1"}},
			{Id: "c0", PodSandboxId: "older", Metadata: &runtimeapi.ContainerMetadata{Name: "c"}},
		},
	}
}

func number(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

// provider is one over a tree and a runtime.
func provider(t *testing.T, root string, runtime *fakeRuntime, change func(*Options)) *Provider {
	t.Helper()
	spec := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod", Namespace: "ns", UID: "p"}}
	o := Options{
		CRI: &cri.Client{Runtime: runtime, Images: runtime}, NodeName: "node", RootDir: t.TempDir(), Machine: open(t, root), MaxAge: time.Nanosecond,
		Pods:       func() []*corev1.Pod { return []*corev1.Pod{spec} },
		PodCgroup:  func(pod *corev1.Pod) string { return "/pods/" + string(pod.UID) },
		PodsCgroup: func() string { return "/pods" },
	}
	if change != nil {
		change(&o)
	}
	return New(o)
}

func body(t *testing.T, h http.Handler, target string) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil).WithContext(t.Context()))
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", target, w.Code, w.Body)
	}
	return w.Body.String()
}

func wantLines(t *testing.T, text string, prefixes ...string) {
	t.Helper()
	for _, prefix := range prefixes {
		if !strings.Contains("\n"+text, "\n"+prefix) {
			t.Errorf("no line begins with %s in\n%s", prefix, text)
		}
	}
}
