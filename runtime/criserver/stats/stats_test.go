package stats_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"

	"minikubelet/runtime/criserver/stats"
)

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestReadV1(t *testing.T) {
	root := tree(t, map[string]string{
		"cpuacct/p/cpuacct.usage": "5000\n", "cpuacct/p/cpuacct.usage_percpu": "5000\n", "cpuacct/p/cpuacct.stat": "user 3\nsystem 2\n", "cpu/p/cpu.stat": "nr_periods 4\nnr_throttled 1\nthrottled_time 9\n",
		"memory/p/memory.usage_in_bytes": "1000\n", "memory/p/memory.max_usage_in_bytes": "1100\n", "memory/p/memory.failcnt": "3\n",
		"memory/p/memory.stat":           "rss 100\ntotal_inactive_file 300\ntotal_rss 400\ntotal_cache 350\n",
		"memory/p/memory.limit_in_bytes": "9223372036854771712\n", "memory/p/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		"pids/p/pids.current": "7\n", "pids/p/pids.max": "max\n", "blkio/p/blkio.throttle.io_service_bytes": "8:0 Read 10\n8:0 Write 20\nTotal 30\n", "blkio/p/blkio.throttle.io_serviced": "8:0 Read 1\n",
	})
	c := stats.Cgroups{Root: root}
	got, err := c.Read("/p")
	if err != nil {
		t.Fatal(err)
	}
	check(t, got, map[string]uint64{
		"cpu": 5000, "user": 3e7, "system": 2e7, "periods": 4, "throttled periods": 1, "throttled": 9, "memory": 1000, "working set": 700, "rss": 400, "cache": 350,
		"failures": 3, "kills": 2, "threads": 7, "Read bytes 8:0": 10, "Write bytes 8:0": 20, "Read operations 8:0": 1,
	})
	if c.OOMKills("/p") != 2 || c.OOMKills("/q") != 0 {
		t.Error("kills for memory")
	}
	if _, err := c.Read("/q"); err == nil {
		t.Error("a cgroup that is not there")
	}
}

func TestReadV2(t *testing.T) {
	root := tree(t, map[string]string{
		"p/cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\n", "p/memory.current": "1000\n", "p/memory.stat": "inactive_file 2000\nanon 400\n", "p/memory.max": "4096\n",
		"p/memory.events": "max 3\noom_kill 1\n", "p/pids.current": "7\n", "p/pids.max": "max\n", "p/io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0\n\n",
		"p/cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
	})
	got, err := stats.Cgroups{Root: root, V2: true}.Read("/p")
	if err != nil {
		t.Fatal(err)
	}
	check(t, got, map[string]uint64{
		"cpu": 5000, "user": 3000, "system": 2000, "memory": 1000, "rss": 400, "limit": 4096, "failures": 3, "kills": 1, "threads": 7,
		"Read bytes 8:0": 1, "Write bytes 8:0": 2, "Read operations 8:0": 3, "Write operations 8:0": 4,
	})
	psi := stats.PSI(got.CpuStats.PSI)
	if psi.GetSome().GetTotal() != 12000 || psi.GetSome().GetAvg10() != 1.5 || psi.GetFull().GetTotal() != 3000 || stats.PSI(nil) != nil || got.MemoryStats.PSI != nil {
		t.Errorf("pressure %v", psi)
	}
}

// check compares the figures of a usage that are not 0.
func check(t *testing.T, u stats.Usage, want map[string]uint64) {
	t.Helper()
	cpu, throttled, memory := u.CpuStats.CpuUsage, u.CpuStats.ThrottlingData, u.MemoryStats
	got := map[string]uint64{
		"cpu": cpu.TotalUsage, "user": cpu.UsageInUsermode, "system": cpu.UsageInKernelmode, "periods": throttled.Periods, "throttled periods": throttled.ThrottledPeriods,
		"throttled": throttled.ThrottledTime, "memory": memory.Usage.Usage, "working set": u.WorkingSet(), "rss": memory.Stats["anon"], "cache": memory.Cache,
		"mapped": memory.Stats["file_mapped"], "kernel": memory.KernelUsage.Usage, "swap": memory.SwapOnlyUsage.Usage, "limit": memory.Usage.Limit,
		"failures": memory.Usage.Failcnt, "faults": memory.Stats["pgfault"], "major faults": memory.Stats["pgmajfault"], "kills": u.OOMKills,
		"threads": u.PidsStats.Current, "most threads": u.PidsStats.Limit,
	}
	for what, entries := range map[string][]cgroups.BlkioStatEntry{"bytes": u.BlkioStats.IoServiceBytesRecursive, "operations": u.BlkioStats.IoServicedRecursive} {
		for _, e := range entries {
			if e.Op != "Total" {
				got[fmt.Sprintf("%s %s %d:%d", e.Op, what, e.Major, e.Minor)] = e.Value
			}
		}
	}
	maps.DeleteFunc(got, func(_ string, value uint64) bool { return value == 0 })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestMain lets the library read cgroup files that are on no cgroup file system.
func TestMain(m *testing.M) {
	cgroups.TestMode = true
	m.Run()
}
