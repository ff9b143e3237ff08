package cgroups

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestParseAmount(t *testing.T) {
	for text, want := range map[string]int64{
		"1024\n": 1024, "max 100000\n": -1, "50000 100000\n": 50000, "max": -1, "-1\n": -1,
		"9223372036854771712\n": -1, "9223372036854775807": -1, "0": 0,
	} {
		if got, err := parseAmount(text); got != want || err != nil {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "1x 2", "99999999999999999999"} {
		if got, err := parseAmount(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// TestWeightToShares: shares survive the way to a weight and back as near as weights are fine.
func TestWeightToShares(t *testing.T) {
	for shares := uint64(minShares); shares <= maxShares; shares += 17 {
		if back := weightToShares(sharesToWeight(shares)); sharesToWeight(back) != sharesToWeight(shares) {
			t.Fatalf("%d shares are weight %d, which is %d shares, weight %d", shares, sharesToWeight(shares), back, sharesToWeight(back))
		}
	}
	for _, weight := range []uint64{0, 10001} {
		if back := weightToShares(weight); back < minShares || back > maxShares {
			t.Errorf("weight %d is %d shares", weight, back)
		}
	}
}

func TestResources(t *testing.T) {
	m := &Manager{options: Options{CPUCFSQuotaPeriod: 100 * time.Millisecond}}
	write := func(list corev1.ResourceList) string { return list.Cpu().String() + " " + list.Memory().String() }
	for _, tc := range []struct {
		size             Size
		requests, limits string
	}{
		{Size{}, "0 0", "0 0"},
		{Size{new(uint64(2)), new(int64(-1)), new(int64(-1))}, "0 0", "0 0"},
		{Size{new(uint64(1024)), new(int64(150000)), new(int64(64 << 20))}, "1 0", "1500m 64Mi"},
		{Size{new(uint64(MilliCPUToShares(101))), nil, nil}, "101m 0", "0 0"},
	} {
		requests, limits := m.Resources(tc.size)
		if write(requests) != tc.requests || write(limits) != tc.limits {
			t.Errorf("%s, limits %s; want %s, %s", write(requests), write(limits), tc.requests, tc.limits)
		}
	}
}

// TestResizeOnThisMachine: a pod's cgroup is made as asked, read back, and changed only in what is given.
func TestResizeOnThisMachine(t *testing.T) {
	m := machine(t)
	pod := podOf(corev1.ResourceRequirements{Requests: list("500m", "64Mi"), Limits: list("1", "64Mi")})
	if err := m.EnsurePod(pod); err != nil {
		t.Fatal(err)
	}
	want := func(shares, quota, memory int64) {
		t.Helper()
		size, err := m.ReadPodSize(pod)
		if err != nil {
			t.Fatal(err)
		}
		if m.unified { // weights are coarser
			shares = int64(weightToShares(sharesToWeight(uint64(shares))))
		}
		if got, want := fmt.Sprint(*size.Shares, *size.Quota, *size.Memory), fmt.Sprint(shares, quota, memory); got != want {
			t.Errorf("size %s, want %s", got, want)
		}
	}
	want(512, 100000, 64<<20)
	if err := m.ResizePod(pod, Size{Memory: new(int64(32 << 20))}); err != nil {
		t.Fatal(err)
	}
	want(512, 100000, 32<<20)
	if err := m.ResizePod(pod, Size{Shares: new(uint64(256)), Quota: new(int64(50000))}); err != nil {
		t.Fatal(err)
	}
	want(256, 50000, 32<<20)
	if err := m.ResizePod(pod, Size{}); err != nil {
		t.Fatal(err)
	}
	want(256, 50000, 32<<20)
	if usage, err := m.PodMemoryUsage(pod); err != nil || usage < 0 {
		t.Errorf("usage %d, %v", usage, err)
	}

	// A pod that was given other resources is not left with those its cgroup was made with.
	pod.Spec.Containers[0].Resources.Limits = list("2", "128Mi")
	if err := m.EnsurePod(pod); err != nil {
		t.Fatal(err)
	}
	want(512, 200000, 128<<20)
	if err := m.RemovePod(pod.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := m.ReadPodSize(pod); err == nil {
		t.Error("a pod without cgroup has a size")
	}
}
