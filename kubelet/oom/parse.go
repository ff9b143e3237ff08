package oom

import (
	"strconv"
	"strings"
)

// Kill is what the kernel logs when it ends a process because memory is short.
type Kill struct {
	Process string // its name, at most 15 bytes
	PID     int
	Limit   string // the memory cgroup whose limit was reached; "" when the whole machine was short
	Cgroup  string // the memory cgroup of the process
}

// Parse reads one record of /dev/kmsg ("6,1234,5678,-;message"). ok is false for one that tells of no kill. It reads the line
// that kernels since 4.19 write for each: oom-kill:constraint=...,oom_memcg=PATH,task_memcg=PATH,task=NAME,pid=N,uid=N, with
// global_oom in place of oom_memcg. It is pure.
func Parse(record string) (kill Kill, ok bool) {
	_, message, _ := strings.Cut(record, ";")
	message, _, _ = strings.Cut(message, "\n") // what follows are properties of the record
	fields, ok := strings.CutPrefix(message, "oom-kill:constraint=")
	if !ok {
		return Kill{}, false
	}
	_, hasUID := cutLast(&fields, ",uid=")
	pid, hasPID := cutLast(&fields, ",pid=")
	if kill.PID, ok = number(pid); !hasUID || !hasPID || !ok {
		return Kill{}, false
	}
	// A process chooses its name, so the first ",task=" after the cgroup's counts. Paths of cgroups are root's.
	before, after, ok := strings.Cut(fields, ",task_memcg=")
	if !ok {
		return Kill{}, false
	}
	if kill.Cgroup, kill.Process, ok = strings.Cut(after, ",task="); !ok {
		return Kill{}, false
	}
	_, kill.Limit, ok = strings.Cut(before, ",oom_memcg=")
	return kill, ok || strings.HasSuffix(before, ",global_oom")
}

// cutLast returns what follows the last separator in s, and shortens s to what precedes it.
func cutLast(s *string, separator string) (after string, found bool) {
	i := strings.LastIndex(*s, separator)
	if i < 0 {
		return "", false
	}
	after = (*s)[i+len(separator):]
	*s = (*s)[:i]
	return after, true
}

func number(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n > 0
}
