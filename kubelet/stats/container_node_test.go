package stats

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNodeInContainer: a node that is a container uses what its cgroup does, and has as available what its limit and the
// machine leave.
func TestNodeInContainer(t *testing.T) {
	const v1, v2 = "sys/fs/cgroup/memory/", "sys/fs/cgroup/"
	unified := map[string]string{
		"proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n", v2 + "cpu.stat": "usage_usec 5000\n",
		v2 + "memory.current": "204800\n", v2 + "memory.max": "max\n", v2 + "memory.stat": "anon 1024\ninactive_file 102400\npgfault 7\n",
		v2 + "memory.swap.current": "1024\n", v2 + "memory.swap.max": "2048\n",
	}
	legacy := map[string]string{
		"proc/self/mountinfo": "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n36 31 0:33 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n" +
			"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
		"sys/fs/cgroup/cpuacct/cpuacct.usage": "5000000\n",
		v1 + "memory.max_usage_in_bytes":      "0\n", v1 + "memory.failcnt": "0\n", v1 + "memory.use_hierarchy": "1\n",
		"sys/fs/cgroup/cpuacct/cpuacct.usage_percpu": "5000000\n", "sys/fs/cgroup/cpuacct/cpuacct.stat": "user 1\nsystem 2\n",
		v1 + "memory.usage_in_bytes": "204800\n", v1 + "memory.limit_in_bytes": "307200\n", v1 + "memory.stat": "total_inactive_file 102400\ntotal_rss 1024\ntotal_pgfault 7\n",
	}
	for name, tt := range map[string]struct {
		files                    []map[string]string
		used, working, available uint64
		rss, faults              uint64
		without                  string
	}{
		"v2":                      {[]map[string]string{unified}, 204800, 102400, 512000, 1024, 7, ""}, // the machine has 500 kB
		"v2 with a limit":         {[]map[string]string{unified, {v2 + "memory.max": "307200\n"}}, 204800, 102400, 204800, 1024, 7, ""},
		"v2, the machine":         {[]map[string]string{unified}, 614400, 512000, 512000, 51200, 11, v2 + "memory.current"},
		"hybrid":                  {[]map[string]string{legacy}, 204800, 102400, 204800, 1024, 7, ""},
		"hybrid, without a limit": {[]map[string]string{legacy, {v1 + "memory.limit_in_bytes": "9223372036854771712\n"}}, 204800, 102400, 512000, 1024, 7, ""},
		"hybrid, the machine":     {[]map[string]string{legacy, {v1 + "release_agent": "\n"}}, 614400, 512000, 512000, 51200, 11, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			files(t, root, proc)
			for _, f := range tt.files {
				files(t, root, f)
			}
			if tt.without != "" {
				if err := os.Remove(filepath.Join(root, tt.without)); err != nil {
					t.Fatal(err)
				}
			}
			u, err := open(t, root).Node()
			if err != nil {
				t.Fatal(err)
			}
			got := []uint64{*u.Memory.UsageBytes, *u.Memory.WorkingSetBytes, *u.Memory.AvailableBytes, *u.Memory.RSSBytes, *u.Memory.PageFaults}
			for i, want := range []uint64{tt.used, tt.working, tt.available, tt.rss, tt.faults} {
				if got[i] != want {
					t.Errorf("used, working, available, anonymous, faults are %v; number %d should be %d", got, i, want)
				}
			}
			if *u.CPU.UsageCoreNanoSeconds != 5000000 {
				t.Errorf("CPU time %d", *u.CPU.UsageCoreNanoSeconds)
			}
			if u.Swap != nil && *u.Swap.SwapAvailableBytes > 4096 {
				t.Errorf("swap: %+v", u.Swap)
			}
		})
	}
}

// TestResourceWithoutSwap: a node in a container whose kernel does not count swap has all other metrics.
func TestResourceWithoutSwap(t *testing.T) {
	root := t.TempDir()
	const v1 = "sys/fs/cgroup/memory/"
	files(t, root, proc)
	files(t, root, map[string]string{
		"proc/self/mountinfo":            "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
		v1 + "memory.max_usage_in_bytes": "0\n", v1 + "memory.failcnt": "0\n", v1 + "memory.use_hierarchy": "1\n",
		v1 + "memory.usage_in_bytes": "204800\n", v1 + "memory.limit_in_bytes": "307200\n", v1 + "memory.stat": "total_inactive_file 102400\n",
	})
	text := body(t, provider(t, root, onePod(), nil).Resource(), "/metrics/resource")
	wantLines(t, text, "resource_scrape_error 0\n", "node_memory_working_set_bytes 102400 ", "node_cpu_usage_seconds_total ", `container_start_time_seconds{container="c"`)
	if strings.Contains(text, "node_swap") {
		t.Errorf("swap that is not known is told:\n%s", text)
	}
}
