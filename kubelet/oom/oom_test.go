package oom_test

import (
	"strings"
	"testing"

	"minikubelet/kubelet/oom"
)

const (
	system = "6,1707,35725127919,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/kubepods/besteffort/podu/c1,task=eater,pid=20345,uid=0\n"
	inPod  = "6,1708,35725127920,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c1,mems_allowed=0,oom_memcg=/kubepods/podu,task_memcg=/kubepods/podu/c1,task=tail,pid=7,uid=1000\n SUBSYSTEM=none\n"
	named  = "6,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=x,pid=1,uid=2,pid=77,uid=5\n"
)

func TestParse(t *testing.T) {
	for name, test := range map[string]struct {
		record string
		want   oom.Kill
		none   bool
	}{
		"the machine":         {record: system, want: oom.Kill{Process: "eater", PID: 20345, Cgroup: "/kubepods/besteffort/podu/c1"}},
		"a limit":             {record: inPod, want: oom.Kill{Process: "tail", PID: 7, Limit: "/kubepods/podu", Cgroup: "/kubepods/podu/c1"}},
		"a name with a pid":   {record: named, want: oom.Kill{Process: "x,pid=1,uid=2", PID: 77, Limit: "/a", Cgroup: "/a/b"}},
		"something else":      {record: "6,1,2,-;eth0: link is up\n", none: true},
		"empty":               {none: true},
		"no pid":              {record: strings.ReplaceAll(inPod, ",pid=7", ""), none: true},
		"a pid that is none":  {record: strings.ReplaceAll(inPod, "pid=7", "pid=x"), none: true},
		"no cgroup":           {record: strings.ReplaceAll(inPod, ",task_memcg=/kubepods/podu/c1", ""), none: true},
		"neither kind":        {record: strings.ReplaceAll(system, ",global_oom", ""), none: true},
		"quoted in a message": {record: "12,1,2,-;someone said oom-kill:constraint=CONSTRAINT_NONE,global_oom,task_memcg=/,task=a,pid=1,uid=0\n", none: true},
	} {
		kill, ok := oom.Parse(test.record)
		if ok == test.none || ok && kill != test.want {
			t.Errorf("%s: %+v, %v", name, kill, ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{system, inPod, named} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, record string) {
		if kill, ok := oom.Parse(record); ok && (kill.PID <= 0 || !strings.Contains(record, kill.Process)) {
			t.Errorf("%+v", kill)
		}
	})
}
