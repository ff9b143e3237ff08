package stats

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"minikubelet/kubelet/measure"
)

// show is the details of a cgroup, a line each.
func show(m *measure.Machine, cgroup string) string {
	var b strings.Builder
	for _, s := range details(m, cgroup) {
		fmt.Fprintln(&b, s.family, s.labels, s.value)
	}
	return b.String()
}

// TestContainerDetails: what the kernel tells of a container on either version of cgroups.
func TestContainerDetails(t *testing.T) {
	const v2 = "/sys/fs/cgroup/pods/p/c/"
	unified := map[string]string{
		"cpu.stat": "usage_usec 3\nuser_usec 1500000\nsystem_usec 500000\n", "cpu.max": "max 100000\n", "cpu.weight": "1\n",
		"memory.current": "9\n", "memory.stat": "anon 1\nfile 4096\nfile_mapped 512\n", "memory.peak": "9000\n", "memory.max": "79998976\n", "memory.high": "max\n", "memory.swap.max": "0\n",
		"memory.events": "low 0\nhigh 2\nmax 3\noom 0\noom_kill 1\n", "pids.current": "4\n", "pids.max": "max\n",
		"io.stat":      "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
		"cgroup.procs": fmt.Sprintln(os.Getpid()),
	}
	root := unifiedTree(t)
	for name, text := range unified {
		files(t, root, map[string]string{v2 + name: text})
	}
	files(t, root, map[string]string{
		fmt.Sprintf("proc/%d/stat", os.Getpid()): "",
	})
	m := open(t, root)
	got := show(m, "/pods/p/c")
	for _, want := range []string{
		"cpu_user_seconds_total [] 1.5", "cpu_system_seconds_total [] 0.5", "spec_cpu_period [] 100000", "spec_cpu_shares [] 2", "memory_cache [] 4096",
		"spec_memory_limit_bytes [] 7.9998976e+07", "memory_failcnt [] 3", "memory_events_high_total [] 2", "memory_events_max_total [] 3", "oom_events_total [] 1", "threads [] 4", "fs_reads_total [] 1", "processes [] 1",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "spec_cpu_quota") {
		t.Errorf("a quota that is none is shown:\n%s", got)
	}
	for _, s := range details(m, "/pods/p/c") {
		if cadvisorDescs[s.family] == nil {
			t.Errorf("%s is no metric", s.family)
		}
	}
}
