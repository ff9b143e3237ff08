package cgroups

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	libcgroups "github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// TestPodSizesOnThisMachine: a pod's size is what was set, on whichever version of cgroups the machine has.
func TestPodSizesOnThisMachine(t *testing.T) {
	m := machine(t)
	pod := podOf(corev1.ResourceRequirements{Requests: list("500m", "64Mi"), Limits: list("1", "64Mi")})
	if err := m.EnsurePod(pod); err != nil {
		t.Fatal(err)
	}
	is := func(when string, shares uint64, quota, memory int64) {
		t.Helper()
		got, err := m.ReadPodSize(pod)
		if err != nil {
			t.Fatal(err)
		}
		// A weight of cgroup v2 stands for 26 shares or so.
		if *got.Shares > shares || *got.Shares+27 < shares || !m.unified && *got.Shares != shares || *got.Quota != quota || *got.Memory != memory {
			t.Errorf("%s: shares %d, quota %d, memory %d; want %d, %d, %d", when, *got.Shares, *got.Quota, *got.Memory, shares, quota, memory)
		}
	}
	is("made", 512, 100000, 64<<20)
	if err := m.ResizePod(pod, m.PodSize(podOf(corev1.ResourceRequirements{Requests: list("1", "32Mi"), Limits: list("2", "128Mi")}))); err != nil {
		t.Fatal(err)
	}
	is("more", 1024, 200000, 128<<20)
	if err := m.ResizePod(pod, Size{Memory: new(int64(16 << 20))}); err != nil {
		t.Fatal(err)
	}
	is("less memory, the rest left alone", 1024, 200000, 16<<20)
	if err := m.ResizePod(pod, Size{Quota: new(int64(-1)), Memory: new(int64(-1))}); err != nil {
		t.Fatal(err)
	}
	is("no limits", 1024, -1, -1)
}

// TestUsageOnThisMachine: a pod's processes are counted to it and to all pods.
func TestUsageOnThisMachine(t *testing.T) {
	m := machine(t)
	pod := podOf(corev1.ResourceRequirements{})
	if err := m.EnsurePod(pod); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "sleep", "3600")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { // before the cgroups are removed
		_ = command.Process.Kill()
		_ = command.Wait()
	}()
	for _, controller := range m.controllers() {
		if err := libcgroups.WriteCgroupProc(filepath.Join(m.mounts[controller], m.path(m.podName(pod))), command.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	if memory, err := m.PodMemoryUsage(pod); err != nil || memory < 0 || memory > 1<<30 {
		t.Errorf("the pod has %d bytes: %v", memory, err)
	}
}

// TestPodsUseMore: a limit that the pods exceed already, as after a restart with larger reservations, keeps nothing from being made,
// and is in force when they use less. On cgroup v2 the kernel takes it at once, and ends processes.
func TestPodsUseMore(t *testing.T) {
	m := machine(t)
	if m.unified {
		t.Skip("cgroup v1 only")
	}
	memory := t.TempDir()
	if err := unix.Mount("tmpfs", memory, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(memory, unix.MNT_DETACH) })
	procs := filepath.Join(m.mounts["memory"], m.path(m.root.child(bestEffort)), "cgroup.procs")
	fill := exec.CommandContext(t.Context(), "sh", "-c", "echo $$ >"+procs+" && dd if=/dev/zero of="+memory+"/x bs=1M count=64")
	if out, err := fill.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m.options.Allocatable = list("2", "32Mi")
	if err := libcgroups.RemovePath(filepath.Join(m.mounts["memory"], m.path(m.root.child(burstable)))); err != nil {
		t.Fatal(err)
	}
	if err := m.Setup(); !errors.Is(err, ErrLimitPods) || !strings.Contains(err.Error(), m.path(m.root)) {
		t.Errorf("with pods that use more: %v", err)
	}
	if err := m.EnsurePod(podOf(corev1.ResourceRequirements{Requests: list("1", "")})); err != nil {
		t.Errorf("a pod's cgroup: %v", err)
	}
	if got := read(t, m, m.root, "memory", "memory.limit_in_bytes", ""); got != strconv.Itoa(1<<30) {
		t.Errorf("the limit is %s", got)
	}
	if err := os.Remove(filepath.Join(memory, "x")); err != nil {
		t.Fatal(err)
	}
	if err := m.LimitPods(); err != nil {
		t.Fatal(err)
	}
	if memory, cpu := read(t, m, m.root, "memory", "memory.limit_in_bytes", ""), read(t, m, m.root, "cpu", "cpu.shares", ""); memory != strconv.Itoa(32<<20) || cpu != "2048" {
		t.Errorf("when they use less the limits are %s, %s", memory, cpu)
	}
}
