package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

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

// metered does something and returns the CPU time that the whole stack used meanwhile, in seconds.
func (b *bench) metered(do func() error) (float64, error) {
	before, err := b.s.CPUSeconds()
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := b.s.CPUSeconds()
	return after - before, err
}

// rssAnonMiB is how much of what a process holds is its own: no page of a file, which another process may share and the
// kernel can drop.
func rssAnonMiB(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "RssAnon: %f kB", &kib); err == nil {
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("read memory of %d: no RssAnon", pid)
}

// tally counts by name: CRI calls by method, requests by verb and resource.
type tally map[string]float64

func (t tally) sum() float64 {
	sum := 0.0
	for _, n := range t {
		sum += n
	}
	return sum
}

// since is what was counted after before.
func (t tally) since(before tally) tally {
	diff := tally{}
	for name, n := range t {
		if n -= before[name]; n != 0 {
			diff[name] = n
		}
	}
	return diff
}

// perPod prints the counts of n pods, the largest first.
func (t tally) perPod(n int) string {
	names := slices.SortedFunc(maps.Keys(t), func(a, b string) int {
		return cmp.Or(cmp.Compare(t[b], t[a]), cmp.Compare(a, b))
	})
	parts := make([]string, 0, len(names))
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%s %.2f", name, t[name]/float64(n)))
	}
	return strings.Join(parts, ", ")
}

// criCalls is how many CRI calls the runtime has been asked so far, by its own
// count, so that both kubelets are measured with the same scale. A runtime in the
// kubelet has no count of its own.
func (b *bench) criCalls(ctx context.Context) (tally, error) {
	if b.runtime == stack.Embedded {
		return tally{}, nil
	}
	text, err := b.s.Get(ctx, stack.ContainerdMetrics)
	if err != nil {
		return nil, err
	}
	return criTally(text)
}

// requests is what kubelets have asked of the apiserver since then. Watches
// count when they end.
func (b *bench) requests(since time.Time) (tally, error) {
	all, err := b.s.NodeRequests()
	if err != nil {
		return nil, err
	}
	counts := tally{}
	for _, q := range all {
		if q.Time.Before(since) {
			continue
		}
		name := q.Verb + " " + q.Resource
		if q.Subresource != "" {
			name += "/" + q.Subresource
		}
		counts[name]++
	}
	return counts, nil
}

var criStarted = regexp.MustCompile(`^grpc_server_started_total\{grpc_method="(\w+)",grpc_service="runtime\.v1\.\w+",[^}]*\} (\S+)$`)

// criTally reads the calls of each method from a runtime's metrics.
func criTally(text string) (tally, error) {
	calls := tally{}
	for line := range strings.Lines(text) {
		match := criStarted.FindStringSubmatch(strings.TrimSpace(line))
		if match == nil {
			continue
		}
		value, err := strconv.ParseFloat(match[2], 64)
		if err != nil {
			return nil, fmt.Errorf("parse metric %q: %w", line, err)
		}
		calls[match[1]] += value
	}
	if len(calls) == 0 {
		return nil, errors.New("the runtime's metrics count no CRI calls")
	}
	return calls, nil
}
