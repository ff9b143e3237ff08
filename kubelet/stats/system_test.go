package stats

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// kubeletOf is what the tree's machine tells of this process as the kubelet, which is in the cgroup.
func kubeletOf(t *testing.T, root, cgroup string) *statsapi.ContainerStats {
	t.Helper()
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat))
	fields[13] = "700" // 7 s in user mode
	for name, text := range map[string]string{"cgroup": cgroup, "stat": strings.Join(fields, " "), "status": string(status)} {
		files(t, root, map[string]string{fmt.Sprintf("proc/%d/%s", os.Getpid(), name): text})
	}
	summary, err := provider(t, root, rich(t.TempDir()), nil).Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(summary.Node.SystemContainers, func(c statsapi.ContainerStats) bool { return c.Name == "kubelet" })
	if i < 0 {
		t.Fatalf("system containers: %+v", summary.Node.SystemContainers)
	}
	return &summary.Node.SystemContainers[i]
}

// TestKubeletInRootCgroup: a kubelet without a cgroup of its own is a system container all the same, with what its process
// uses.
func TestKubeletInRootCgroup(t *testing.T) {
	c := kubeletOf(t, unifiedTree(t), "0::/\n")
	if *c.Memory.WorkingSetBytes < 1<<20 || *c.Memory.RSSBytes == 0 || *c.Memory.PageFaults == 0 || *c.CPU.UsageCoreNanoSeconds < 7e9 {
		t.Errorf("the kubelet uses %+v, %+v", c.CPU, c.Memory)
	}
}

// TestKubeletWithoutCPUAccounting: with cgroup v1 systemd may count a service's memory alone. Its CPU time is then that of its
// process, and not 0.
func TestKubeletWithoutCPUAccounting(t *testing.T) {
	c := kubeletOf(t, legacyTree(t), "4:memory:/pods/unlimited\n2:cpu,cpuacct:/\n")
	if *c.Memory.UsageBytes != 800 || *c.CPU.UsageCoreNanoSeconds < 7e9 {
		t.Errorf("the kubelet uses %+v, %+v", c.CPU, c.Memory)
	}
}

// TestGivenCgroups: the cgroups that were named are read where they exist; a name that there is none of hides nothing.
func TestGivenCgroups(t *testing.T) {
	for _, tt := range []struct {
		kubelet, runtime string
		want             map[string]uint64
	}{
		{"", "", map[string]uint64{"kubelet": 11}},
		{"/given/kubelet", "/given/runtime", map[string]uint64{"kubelet": 22, "runtime": 33}},
		{"given/kubelet", "/", map[string]uint64{"kubelet": 22}},
		{"/absent", "/absent", map[string]uint64{"kubelet": 11}},
	} {
		t.Run(tt.kubelet+" "+tt.runtime, func(t *testing.T) {
			root := unifiedTree(t)
			tree := map[string]string{fmt.Sprintf("proc/%d/cgroup", os.Getpid()): "0::/found\n"}
			for path, memory := range map[string]string{"found": "11", "given/kubelet": "22", "given/runtime": "33"} {
				tree["sys/fs/cgroup/"+path+"/memory.current"] = memory + "\n"
				tree["sys/fs/cgroup/"+path+"/memory.stat"] = "anon 1\n"
				tree["sys/fs/cgroup/"+path+"/memory.max"] = "max\n"
			}
			files(t, root, tree)
			p := provider(t, root, rich(t.TempDir()), func(o *Options) { o.KubeletCgroup, o.RuntimeCgroup = tt.kubelet, tt.runtime })
			summary, err := p.Get(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]uint64{}
			for _, c := range summary.Node.SystemContainers {
				if c.Name != statsapi.SystemContainerPods {
					got[c.Name] = *c.Memory.UsageBytes
				}
			}
			if !maps.Equal(got, tt.want) {
				t.Errorf("system containers use %v, want %v", got, tt.want)
			}
		})
	}
}
