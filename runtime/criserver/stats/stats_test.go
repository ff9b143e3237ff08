package stats_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

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
		"cpuacct/p/cpuacct.usage": "5000\n", "cpuacct/p/cpuacct.stat": "user 3\nsystem 2\n", "cpu/p/cpu.stat": "nr_periods 4\nnr_throttled 1\nthrottled_time 9\n",
		"memory/p/memory.usage_in_bytes": "1000\n", "memory/p/memory.stat": "total_inactive_file 300\ntotal_rss 400\ntotal_cache 350\n",
		"memory/p/memory.limit_in_bytes": "9223372036854771712\n", "memory/p/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		"pids/p/pids.current": "7\n", "pids/p/pids.max": "max\n", "blkio/p/blkio.throttle.io_service_bytes": "8:0 Read 10\n8:0 Write 20\nTotal 30\n", "blkio/p/blkio.throttle.io_serviced": "8:0 Read 1\n",
	})
	c := stats.Cgroups{Root: root}
	got, err := c.Read("/p")
	want := stats.Usage{
		CPUNanoseconds: 5000, UserNanoseconds: 3e7, SystemNanoseconds: 2e7, Periods: 4, ThrottledPeriods: 1, ThrottledNanoseconds: 9,
		MemoryUsage: 1000, WorkingSet: 700, RSS: 400, Cache: 350, OOMKills: 2, Threads: 7, IO: []stats.DeviceIO{{Device: "8:0", ReadBytes: 10, WrittenBytes: 20, ReadOps: 1}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
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
		"p/memory.events": "max 3\noom_kill 1\n", "p/pids.current": "7\n", "p/io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0\n\n",
		"p/cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
	})
	got, err := stats.Cgroups{Root: root, V2: true}.Read("/p")
	want := stats.Usage{
		CPUNanoseconds: 5000, UserNanoseconds: 3000, SystemNanoseconds: 2000, MemoryUsage: 1000, RSS: 400, MemoryLimit: 4096, LimitHits: 3, OOMKills: 1,
		Threads: 7, IO: []stats.DeviceIO{{Device: "8:0", ReadBytes: 1, WrittenBytes: 2, ReadOps: 3, WriteOps: 4}}, Pressure: got.Pressure,
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	psi := stats.PSI(got.Pressure["cpu"])
	if psi.GetSome().GetTotal() != 12000 || psi.GetSome().GetAvg10() != 1.5 || psi.GetFull().GetTotal() != 3000 || stats.PSI("") != nil {
		t.Errorf("pressure %v", psi)
	}
}

func FuzzPSI(f *testing.F) {
	f.Add("some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull total=3\n")
	f.Fuzz(func(t *testing.T, text string) {
		if psi := stats.PSI(text); (psi == nil) != (text == "") {
			t.Errorf("%v", psi)
		}
	})
}
