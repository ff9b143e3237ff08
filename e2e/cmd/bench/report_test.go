package main

import (
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	var r result
	for i := 100; i > 0; i-- {
		r.ready = append(r.ready, time.Duration(i)*time.Second)
	}
	if got := r.quantile(0.5); got != 51 {
		t.Errorf("p50 = %v, want 51", got)
	}
	if got := r.quantile(1); got != 100 {
		t.Errorf("p100 = %v, want 100", got)
	}
}

func TestCRITally(t *testing.T) {
	text := "# HELP x\n" +
		`grpc_server_started_total{grpc_method="A",grpc_service="runtime.v1.RuntimeService",grpc_type="unary"} 2` + "\n" +
		`grpc_server_started_total{grpc_method="B",grpc_service="runtime.v1.ImageService",grpc_type="unary"} 3` + "\n" +
		`grpc_server_started_total{grpc_method="B",grpc_service="other.v1.B",grpc_type="unary"} 7` + "\n"
	got, err := criTally(text)
	if err != nil || got.sum() != 5 || got["A"] != 2 {
		t.Errorf("calls = %v, %v, want A 2, B 3", got, err)
	}
	if got := got.since(tally{"A": 2, "B": 1}).perPod(2); got != "B 1.00" {
		t.Errorf("per pod: %q", got)
	}
	if _, err := criTally("up 1\n"); err == nil {
		t.Error("metrics that are missing count as 0")
	}
}

func TestReportRatios(t *testing.T) {
	second := func(n time.Duration) result {
		return result{n: 2, ready: []time.Duration{time.Second, time.Second}, wall: n * time.Second, deletion: time.Second}
	}
	last := second(30)
	last.starting, last.idle = tallies{requests: tally{"patch pods/status": 4}}, &idleResult{cores: 0.004}
	all := results{}
	for i, theirs := range []result{second(1), second(4), second(20)} { // the machine gets slower
		all.add(2, floor, theirs)
		all.add(2, ours, []result{second(2), second(6), last}[i])
	}
	var b strings.Builder
	report(&b, flags{counts: []int{2}, rounds: 3}, all)
	lines := map[string]string{}
	for line := range strings.Lines(b.String()) {
		name := regexp.MustCompile("  +[-0-9]").Split(strings.TrimSpace(line), 2)[0]
		lines[name] = strings.Join(strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), name)), " ")
	}
	for name, want := range map[string]string{
		"create to last Ready, s": "4.00 - 6.00 1.50 -", // 2, 1.5 and 1.5 times as long
		"status writes per pod":   "- - 0.0000 - -",
		"idle CPU, cores":         "- - 0.0040 - -",
		"deletions/s":             "2.00 - 2.00 1.00 -",
	} {
		if lines[name] != want {
			t.Errorf("%s: %q, want %q in\n%s", name, lines[name], want, b.String())
		}
	}
	all.add(2, other, second(1))
	b.Reset()
	report(&b, flags{counts: []int{2}, rounds: 3}, all)
	text := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{"of upstream other of other", "create to last Ready, s 4.00 - 6.00 1.50 - 1.00 2.00"} {
		if !strings.Contains(text, want) {
			t.Errorf("with another build the report lacks %q:\n%s", want, b.String())
		}
	}
}

func TestReportRuntimes(t *testing.T) {
	var b strings.Builder
	slow := &contestant{
		name: "slow", startRate: map[int][]float64{1: {5, 4, 6}, 16: {10}}, removeRate: map[int][]float64{1: {1}, 16: {2}},
		whole: []time.Duration{90 * time.Millisecond}, full: memory{rss: 40, pss: 20}, empty: memory{rss: 20, pss: 10}, idle: 0.5,
	}
	fast := &contestant{
		name: "fast", startRate: map[int][]float64{1: {15}, 16: {40}}, removeRate: map[int][]float64{1: {7}, 16: {2}},
		whole: []time.Duration{60 * time.Millisecond}, full: memory{rss: 14, pss: 7}, empty: memory{rss: 4, pss: 2}, idle: 0,
	}
	reportRuntimes(&b, flags{concurrency: 16, runtimePods: 10, runtimeRounds: 3}, []*contestant{slow, fast})
	for _, want := range []string{"slow", "5.00    15.0          3.00", "10.0    40.0          4.00", "90.0    60.0          1.50", "RSS a pod, MiB", "2.00    1.00          2.00"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("report lacks %q:\n%s", want, b.String())
		}
	}
}

func TestParseRollup(t *testing.T) {
	m, err := parseRollup([]byte("55e0-7fff ---p 00000000 00:00 0  [rollup]\nRss:  2048 kB\nPss:  1024 kB\nPss_Dirty: 4 kB\n"))
	if err != nil || m != (memory{rss: 2, pss: 1}) {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := parseRollup([]byte("Rss: 1 kB\n")); err == nil {
		t.Error("half of it is no error")
	}
}

func TestCatches(t *testing.T) {
	status := "Name:\tx\nSigIgn:\t0000000000004000\nSigCgt:\t0000000000000001\n"
	if catches("Name:\trunc:[2:INIT]\nSigCgt:\tffffffffffffffff\n", syscall.SIGTERM) {
		t.Error("runc is taken for the container")
	}
	if catches(status, syscall.SIGTERM) || !catches(status, syscall.SIGHUP) || catches("", syscall.SIGHUP) {
		t.Error("the handlers are read wrongly")
	}
}
