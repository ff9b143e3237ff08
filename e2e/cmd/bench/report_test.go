package main

import (
	"strings"
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
	var b strings.Builder
	report(&b, flags{counts: []int{2}}, map[string][]result{
		floor: {{n: 2, ready: []time.Duration{time.Second, time.Second}, wall: time.Second, deletion: time.Second}},
		ours: {{n: 2, ready: []time.Duration{time.Second, 2 * time.Second}, wall: 2 * time.Second, deletion: time.Second,
			starting: tallies{requests: tally{"patch pods/status": 4}}, idle: &idleResult{cores: 0.004}}},
	})
	for _, want := range []string{"pods/s", "2.00", "1.00", "0.50", "status writes per pod", "0.0040"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("report lacks %q:\n%s", want, b.String())
		}
	}
}
