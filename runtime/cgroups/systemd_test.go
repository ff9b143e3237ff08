package cgroups

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestSystemdOnThisMachine makes the tree through systemd, as slices of the machine itself. So it must be asked for;
// make test-v2 does, in a virtual machine.
func TestSystemdOnThisMachine(t *testing.T) {
	if os.Getenv("CGROUP_DRIVER") != DriverSystemd {
		t.Skip("CGROUP_DRIVER is not systemd")
	}
	m, err := New(Options{
		Driver: DriverSystemd, PerQOS: true, CPUCFSQuota: true, PodPidsLimit: 99,
		Allocatable: corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("256Mi"), "pid": resource.MustParse("500")},
		LimitPods:   true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Setup(); err != nil {
		t.Fatal(err)
	}
	pod := podOf(corev1.ResourceRequirements{Requests: list("500m", "64Mi"), Limits: list("1", "64Mi")})
	check := func(when string) {
		t.Helper()
		for _, file := range []struct {
			of         name
			file, want string
		}{
			{m.root, "memory.max", "268435456"}, {m.root, "cpu.weight", "39"}, {m.root, "pids.max", "500"},
			{m.root.child(bestEffort), "cpu.weight", "1"}, {m.root.child(burstable), "cpu.weight", "20"},
			{m.podName(pod), "memory.max", "67108864"}, {m.podName(pod), "cpu.weight", "20"},
			{m.podName(pod), "cpu.max", "100000 100000"}, {m.podName(pod), "pids.max", "99"},
		} {
			if got := read(t, m, file.of, "", "", file.file); got != file.want {
				t.Errorf("%s: %s of %s is %q, want %q", when, file.file, m.path(file.of), got, file.want)
			}
		}
	}
	if err := m.EnsurePod(pod); err != nil {
		t.Fatal(err)
	}
	if err := m.UpdateQOS([]*corev1.Pod{pod}); err != nil {
		t.Fatal(err)
	}
	check("made")
	if err := m.Setup(); err != nil { // as a kubelet that starts anew does
		t.Fatal(err)
	}
	check("set up again")
	if pods, err := m.Pods(); err != nil || len(pods) != 1 || pods[0] != pod.UID {
		t.Errorf("pods %v, %v", pods, err)
	}
	if err := m.ResizePod(pod, Size{Memory: new(int64(32 << 20)), Quota: new(int64(-1))}); err != nil {
		t.Fatal(err)
	}
	if size, err := m.ReadPodSize(pod); err != nil || *size.Memory != 32<<20 || *size.Quota != -1 {
		t.Errorf("resized: %+v, %v", size, err)
	}
	if err := m.RemovePod(pod.UID); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(unifiedRoot, m.path(m.podName(pod)))
	for range 100 { // systemd may still be at it
		if _, err = os.Stat(dir); err != nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err == nil {
		t.Errorf("%s is there after the removal", dir)
	}
	if pods, err := m.Pods(); err != nil || len(pods) != 0 {
		t.Errorf("pods after the removal: %v, %v", pods, err)
	}
	if err := m.EnsurePod(pod); err != nil || !strings.HasSuffix(m.PodParent(pod), ".slice") {
		t.Errorf("made again: %v", err)
	}
}
