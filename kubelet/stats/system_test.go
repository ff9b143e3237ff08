package stats

import (
	"fmt"
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
