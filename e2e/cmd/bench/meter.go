package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"minikubelet/e2e/stack"
)

// ticksPerSecond is the unit of /proc/PID/stat, 100 on every Linux port Go has.
const ticksPerSecond = 100

// cpuSeconds is the CPU time a process has used so far.
func cpuSeconds(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("read CPU time of %d: short stat %q", pid, text)
	}
	user, err := strconv.ParseFloat(fields[11], 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticksPerSecond, err
}

// rssMiB is the memory a process holds.
func rssMiB(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kib); err == nil {
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("read memory of %d: no VmRSS", pid)
}

// criCalls is how many CRI calls the runtime has been asked so far, by its own
// count, so that both kubelets are measured with the same scale.
func (b *bench) criCalls(ctx context.Context) (float64, error) {
	text, err := b.s.Get(ctx, stack.ContainerdMetrics)
	if err != nil {
		return 0, err
	}
	return sumMetric(text, "grpc_server_started_total", `grpc_service="runtime.v1.`)
}

// sumMetric adds up the samples of a metric whose labels contain the text.
func sumMetric(text, name, labels string) (float64, error) {
	sum, found := 0.0, false
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, name+"{") || !strings.Contains(line, labels) {
			continue
		}
		fields := strings.Fields(line)
		value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, fmt.Errorf("parse metric %q: %w", line, err)
		}
		sum, found = sum+value, true
	}
	if !found {
		return 0, fmt.Errorf("no metric %s with %s", name, labels)
	}
	return sum, nil
}
