package eviction

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/kubelet/settings"
)

func hard(signal string, bytes int64) settings.EvictionThreshold {
	return settings.EvictionThreshold{Signal: signal, Value: settings.Amount{Quantity: bytes}}
}

func signalsOf(thresholds []settings.EvictionThreshold) string {
	var out []string
	for _, t := range thresholds {
		word := strings.TrimSuffix(t.Signal, ".available")
		if t.GracePeriod > 0 {
			word += "~"
		}
		out = append(out, word)
	}
	return strings.Join(out, " ")
}

func TestThresholdsFor(t *testing.T) {
	soft := hard(signalMemory, 9)
	soft.GracePeriod = time.Minute
	configured := []settings.EvictionThreshold{hard(signalMemory, 5), hard(signalNodeFs, 1), hard(signalImageFs, 2), hard(signalContainerFs, 3), soft}
	for _, tt := range []struct {
		l       layout
		enforce bool
		want    string
		value   int64 // of containerfs
	}{
		{layout{}, true, "memory allocatableMemory nodefs containerfs imagefs memory~", 1},
		{layout{}, false, "memory nodefs containerfs imagefs memory~", 1},
		{layout{imageFs: true}, false, "memory nodefs imagefs containerfs memory~", 2},
		{layout{imageFs: true, containerFs: true}, false, "memory nodefs containerfs imagefs memory~", 1},
	} {
		got := thresholdsFor(configured, tt.l, tt.enforce)
		if signalsOf(got) != tt.want {
			t.Errorf("%+v: %s, want %s", tt.l, signalsOf(got), tt.want)
		}
		for _, threshold := range got {
			if threshold.Signal == signalContainerFs && threshold.Value.Quantity != tt.value {
				t.Errorf("%+v: containerfs has %d", tt.l, threshold.Value.Quantity)
			}
		}
	}
}

func TestMet(t *testing.T) {
	percent := settings.EvictionThreshold{Signal: signalNodeFs, Value: settings.Amount{Percent: 10}, MinReclaim: settings.Amount{Quantity: 50}}
	o := observations{signalNodeFs: {available: 120, capacity: 1000}, signalMemory: {available: 5, capacity: 10}}
	for _, tt := range []struct {
		threshold settings.EvictionThreshold
		reclaim   bool
		want      bool
	}{
		{percent, false, false},
		{percent, true, true},
		{hard(signalMemory, 5), false, false},
		{hard(signalMemory, 6), false, true},
		{hard(signalPIDs, 1000), false, false}, // not observed
	} {
		if got := o.met([]settings.EvictionThreshold{tt.threshold}, tt.reclaim); (len(got) == 1) != tt.want {
			t.Errorf("%+v, reclaim %v: %v", tt.threshold, tt.reclaim, got)
		}
	}
}

// TestTracker follows a node over time: at each second what is free, which thresholds are acted on, which conditions
// are told.
func TestTracker(t *testing.T) {
	soft := hard(signalMemory, 20)
	soft.GracePeriod, soft.MinReclaim = 10*time.Second, settings.Amount{Quantity: 5}
	thresholds := []settings.EvictionThreshold{hard(signalNodeFs, 100), hard(signalMemory, 10), soft}
	start := time.Now()
	tr := tracker{transition: 30 * time.Second, seen: map[corev1.NodeConditionType]time.Time{}}
	for _, step := range []struct {
		at, memory, disk int64
		acting, told     string
	}{
		{0, 50, 500, "", "[]"},
		{1, 15, 500, "", "[MemoryPressure]"},         // the grace period begins
		{5, 25, 500, "", "[MemoryPressure]"},         // and is over
		{6, 15, 500, "", "[MemoryPressure]"},         // another begins
		{15, 15, 500, "", "[MemoryPressure]"},        // 9 s
		{16, 15, 500, "memory~", "[MemoryPressure]"}, // 10 s
		{17, 22, 500, "memory~", "[MemoryPressure]"}, // above, but not by the minimum reclaim
		{18, 25, 500, "", "[MemoryPressure]"},
		{20, 5, 50, "memory nodefs", "[MemoryPressure DiskPressure]"},
		{21, 50, 100, "", "[MemoryPressure DiskPressure]"},
		{49, 50, 100, "", "[MemoryPressure DiskPressure]"},
		{50, 50, 100, "", "[]"}, // the transition period is over
	} {
		o := observations{signalMemory: {step.memory, 1000}, signalNodeFs: {step.disk, 1000}}
		acting, told := tr.observe(thresholds, o, start.Add(time.Duration(step.at)*time.Second))
		if signalsOf(acting) != step.acting || fmt.Sprint(told) != step.told {
			t.Errorf("at %d: acting on %q, told %v, want %q, %s", step.at, signalsOf(acting), told, step.acting, step.told)
		}
	}
	none := tracker{seen: map[corev1.NodeConditionType]time.Time{}}
	if _, told := none.observe(thresholds, observations{signalMemory: {1, 10}}, start); len(told) != 1 {
		t.Errorf("without a transition period: %v", told)
	}
}
