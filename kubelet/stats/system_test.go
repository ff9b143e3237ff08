package stats

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// TestKubeletInRootCgroup: a kubelet without a cgroup of its own is a system container all the same, with what its process
// uses.
func TestKubeletInRootCgroup(t *testing.T) {
	root := unifiedTree(t)
	proc := map[string]string{"cgroup": "0::/\n"}
	for _, name := range []string{"stat", "status"} {
		data, err := os.ReadFile(filepath.Join("/proc/self", name))
		if err != nil {
			t.Fatal(err)
		}
		proc[name] = string(data)
	}
	for name, text := range proc {
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
	c := summary.Node.SystemContainers[i]
	if *c.Memory.WorkingSetBytes < 1<<20 || *c.Memory.RSSBytes == 0 || *c.Memory.PageFaults == 0 || c.CPU.UsageCoreNanoSeconds == nil {
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
