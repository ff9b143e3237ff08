package oom

import (
	"regexp"
	"strconv"
)

// Kill is what the kernel logs when it ends a process because memory is short.
type Kill struct {
	Process string // its name, at most 15 bytes
	PID     int
	Limit   string // the memory cgroup whose limit was reached; "" when the whole machine was short
	Cgroup  string // the memory cgroup of the process
}

// line is what kernels since 4.19 write for each process that they end, with global_oom in place of oom_memcg when the whole
// machine is short. A process chooses its name, which may look like fields: so the first task and the last pid count. Paths of
// cgroups are root's.
var line = regexp.MustCompile(`^[^;]*;oom-kill:constraint=[^\n]*?(?:,oom_memcg=([^\n]*?)|,global_oom),task_memcg=([^\n]*?),task=([^\n]*),pid=(\d+),uid=[^\n]*`)

// Parse reads one record of /dev/kmsg ("6,1234,5678,-;message"). ok is false for one that tells of no kill. It is pure.
func Parse(record string) (kill Kill, ok bool) {
	fields := line.FindStringSubmatch(record)
	if fields == nil {
		return Kill{}, false
	}
	pid, err := strconv.Atoi(fields[4])
	return Kill{Process: fields[3], PID: pid, Limit: fields[1], Cgroup: fields[2]}, err == nil && pid > 0
}
