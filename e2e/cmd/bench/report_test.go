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

func TestSumMetric(t *testing.T) {
	text := "# HELP x\n" +
		`calls_total{method="A",service="v1"} 2` + "\n" +
		`calls_total{method="B",service="v1"} 3` + "\n" +
		`calls_total{method="B",service="v2"} 7` + "\n"
	if got, err := sumMetric(text, "calls_total", `service="v1"`); err != nil || got != 5 {
		t.Errorf("sum = %v, %v, want 5", got, err)
	}
	if _, err := sumMetric(text, "calls_total", `service="v3"`); err == nil {
		t.Error("a metric that is missing counts as 0")
	}
}

func TestReportRatios(t *testing.T) {
	var b strings.Builder
	report(&b, flags{counts: []int{2}}, map[string][]result{
		floor: {{n: 2, ready: []time.Duration{time.Second, time.Second}, wall: time.Second, deletion: time.Second}},
		ours: {{n: 2, ready: []time.Duration{time.Second, 2 * time.Second}, wall: 2 * time.Second, deletion: time.Second,
			statusWrites: 4, idle: &idleResult{cores: 0.004}}},
	})
	for _, want := range []string{"pods/s", "2.00", "1.00", "0.50", "status writes per pod", "0.0040"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("report lacks %q:\n%s", want, b.String())
		}
	}
}
