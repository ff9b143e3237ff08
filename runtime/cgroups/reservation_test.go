package cgroups

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestReservation: the cgroup of a reservation gets what is reserved, or its CPU alone; one that is not there is an error that names the setting.
func TestReservation(t *testing.T) {
	m := machine(t)
	cgroup := m.root[0] // the test's own, made by machine
	for _, which := range []string{"all", "cpu"} {
		dir := parseName("/" + cgroup + "/" + which)
		for _, controller := range m.controllers() {
			if err := os.MkdirAll(filepath.Join(m.mounts[controller], m.path(dir)), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		before := read(t, m, dir, "memory", "memory.limit_in_bytes", "memory.max")
		err := m.enforce(Reservation{
			Field: "kubeReservedCgroup", Cgroup: "/" + cgroup + "/" + which, CPUOnly: which == "cpu",
			Resources: corev1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("256Mi"), "pid": resource.MustParse("77")},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, m, dir, "cpu", "cpu.shares", "cpu.weight"); got != "512" && got != "20" {
			t.Errorf("%s: CPU is %s", which, got)
		}
		memory := "268435456"
		if which == "cpu" {
			memory = before
		}
		if got := read(t, m, dir, "memory", "memory.limit_in_bytes", "memory.max"); got != memory {
			t.Errorf("%s: memory is %s, want %s", which, got, memory)
		}
		if got := read(t, m, dir, "pids", "pids.max", "pids.max"); (got == "77") == (which == "cpu") {
			t.Errorf("%s: processes are %s", which, got)
		}
	}
	err := m.enforce(Reservation{Field: "kubeReservedCgroup", Cgroup: "/" + cgroup + "/none"})
	if err == nil || !strings.Contains(err.Error(), "kubeReservedCgroup") {
		t.Errorf("a cgroup that is not there: %v", err)
	}
}

// TestCgroupOfOthers: with the systemd driver a reservation's cgroup is a slice, whose name has the way to it.
func TestCgroupOfOthers(t *testing.T) {
	systemd := &Manager{}
	systemd.systemd.Store(true)
	for given, want := range map[string]string{"/podruntime.slice": "podruntime", "/system.slice": "system", "/a.slice/a-b.slice": "a b", "/runtime": "runtime"} {
		if got := systemd.ofOthers(given); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s is %q, want %q", given, got, want)
		}
	}
	if got := (&Manager{}).ofOthers("/a/b"); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("cgroupfs: %q", got)
	}
}
