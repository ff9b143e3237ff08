package cgroups

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	libcgroups "github.com/opencontainers/cgroups"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	podinfo "minikubelet/config/pod"
)

func list(cpu, memory string) corev1.ResourceList {
	out := corev1.ResourceList{}
	if cpu != "" {
		out[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		out[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return out
}

func podOf(all ...corev1.ResourceRequirements) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "1234-56"}}
	for i, r := range all {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i), Resources: r})
	}
	return pod
}

func TestPodLimits(t *testing.T) {
	options := Options{CPUCFSQuota: true, CPUCFSQuotaPeriod: 100 * time.Millisecond, PodPidsLimit: 77}
	guaranteed := corev1.ResourceRequirements{Requests: list("500m", "1Gi"), Limits: list("500m", "1Gi")}
	limitOnly := corev1.ResourceRequirements{Limits: list("1", "64Mi")}
	requestOnly := corev1.ResourceRequirements{Requests: list("250m", "64Mi")}
	overhead := podOf(guaranteed)
	overhead.Spec.Overhead = list("100m", "1Mi")
	podLevel := podOf(corev1.ResourceRequirements{})
	podLevel.Spec.Resources = &corev1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("2", "2Gi")}
	set := podOf(corev1.ResourceRequirements{})
	set.Status.QOSClass = corev1.PodQOSBurstable

	for name, tc := range map[string]struct {
		pod           *corev1.Pod
		class         corev1.PodQOSClass
		shares        uint64
		quota, memory int64 // 0: left alone
	}{
		"empty":               {podOf(corev1.ResourceRequirements{}), corev1.PodQOSBestEffort, 2, 0, 0},
		"guaranteed":          {podOf(guaranteed, guaranteed), corev1.PodQOSGuaranteed, 1024, 100000, 2 << 30},
		"limits alone":        {podOf(limitOnly), corev1.PodQOSGuaranteed, 2, 100000, 64 << 20},
		"requests alone":      {podOf(requestOnly), corev1.PodQOSBurstable, 256, 0, 0},
		"one container bare":  {podOf(guaranteed, corev1.ResourceRequirements{}), corev1.PodQOSBurstable, 512, 0, 0},
		"overhead":            {overhead, corev1.PodQOSGuaranteed, 614, 60000, 1<<30 + 1<<20},
		"pod level resources": {podLevel, corev1.PodQOSBurstable, 1024, 200000, 2 << 30},
		"class from status":   {set, corev1.PodQOSBurstable, 2, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := podinfo.QOSClass(tc.pod); got != tc.class {
				t.Errorf("class %s, want %s", got, tc.class)
			}
			got := options.podLimits(tc.pod)
			value := func(p *int64) int64 {
				if p == nil {
					return 0
				}
				return *p
			}
			if *got.Shares != tc.shares || value(got.Quota) != tc.quota || value(got.Memory) != tc.memory || *got.pids != 77 {
				t.Errorf("shares %d quota %d memory %d pids %d, want %d %d %d 77",
					*got.Shares, value(got.Quota), value(got.Memory), *got.pids, tc.shares, tc.quota, tc.memory)
			}
		})
	}
	options.CPUCFSQuota = false
	if got := options.podLimits(podOf(guaranteed)); *got.Quota != -1 {
		t.Errorf("quota %d with cpuCFSQuota off, want -1", *got.Quota)
	}
}

func TestConversions(t *testing.T) {
	for milli, want := range map[int64]uint64{0: 2, 1: 2, 1000: 1024, 1 << 40: 262144} {
		if got := MilliCPUToShares(milli); got != want {
			t.Errorf("shares of %dm: %d, want %d", milli, got, want)
		}
	}
	for milli, want := range map[int64]int64{0: 0, 1: 1000, 10: 1000, 1500: 150000} {
		if got := MilliCPUToQuota(milli, 100*time.Millisecond); got != want {
			t.Errorf("quota of %dm: %d, want %d", milli, got, want)
		}
	}
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 39, 262144: 10000, 1 << 30: 10000} {
		if got := sharesToWeight(shares); got != want {
			t.Errorf("weight of %d shares: %d, want %d", shares, got, want)
		}
	}
	for resourceName, want := range map[corev1.ResourceName]string{
		"hugepages-2Mi": "2MB", "hugepages-1Gi": "1GB", "hugepages-64Ki": "64KB", "hugepages-x": "", "memory": "",
	} {
		if got, _ := HugepageSize(resourceName); got != want {
			t.Errorf("%s: %q, want %q", resourceName, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	n := parseName("/a/").child(kubepods).child(burstable).child("pod1234-56")
	if got, want := n.cgroupfs(), "/a/kubepods/burstable/pod1234-56"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := n[1:].systemd(), "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234_56.slice"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, dir := range []string{filepath.Base(n.cgroupfs()), filepath.Base(n.systemd())} {
		if uid, ok := uidOfDir(dir); !ok || uid != "1234-56" {
			t.Errorf("%s: %q", dir, uid)
		}
	}
	for _, dir := range []string{"burstable", "pod", "system.slice", "cri-1234"} {
		if uid, ok := uidOfDir(dir); ok {
			t.Errorf("%s taken for pod %q", dir, uid)
		}
	}
	for _, uid := range []types.UID{"", "../x", "a/b", "a_b", ".."} {
		if checkUID(uid) == nil {
			t.Errorf("UID %q accepted", uid)
		}
	}
}

// TestSystemd: slices nest by their names, and the pods' cgroups are where the runtime is told they are.
func TestSystemd(t *testing.T) {
	m := &Manager{options: Options{PerQOS: true}, unified: true, root: name{"a", kubepods}}
	m.systemd.Store(true)
	pod := podOf(corev1.ResourceRequirements{Requests: list("500m", "")})
	const want = "/a.slice/a-kubepods.slice/a-kubepods-burstable.slice/a-kubepods-burstable-pod1234_56.slice"
	if parent, path := m.PodParent(pod), m.PodCgroup(pod); parent != want || path != want {
		t.Errorf("parent %s, cgroup %s", parent, path)
	}
	for unit, n := range map[string]name{
		"-.slice kubepods.slice":                                           {kubepods},
		"a.slice a-kubepods.slice":                                         m.root,
		"a-kubepods.slice a-kubepods-pod1234_56.slice":                     m.root.child("pod1234-56"),
		"a-kubepods-burstable.slice a-kubepods-burstable-pod1234_56.slice": m.podName(pod),
		"a_b.slice a_b-kubepods.slice":                                     {"a-b", kubepods},
		"a-kubepods-besteffort.slice a-kubepods-besteffort-podabc.slice":   m.root.child(bestEffort).child("podabc"),
		"a-kubepods.slice a-kubepods-besteffort.slice":                     m.root.child(bestEffort),
	} {
		c := m.config(n, m.options.podLimits(pod))
		if got := c.Parent + " " + c.Name; got != unit || !c.Systemd || c.Path != "" || c.CpuWeight != 20 || c.CpuShares != 0 {
			t.Errorf("%v is %q (%+v), want %q", n, got, c, unit)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for want, options := range map[string]Options{
		"cgroupDriver": {Driver: "dockerfs"},
		"cgroupRoot":   {Root: "/a/../b"},
	} {
		if _, err := New(options); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v): %v, want an error naming %s", options, err, want)
		}
	}
	m, err := New(Options{Root: "/missing-" + strconv.Itoa(os.Getpid()), PerQOS: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Setup(); err == nil || !strings.Contains(err.Error(), "cgroupRoot") {
		t.Errorf("Setup without its root: %v", err)
	}
}

// TestDriverLater: until the driver is known nothing has a path, and nothing is made, read or removed.
func TestDriverLater(t *testing.T) {
	m, err := New(Options{Driver: DriverLater, Root: "/missing-" + strconv.Itoa(os.Getpid()), PerQOS: true})
	if err != nil {
		t.Fatal(err)
	}
	_, listed := m.Pods()
	for what, err := range map[string]error{
		"Setup": m.Setup(), "EnsurePod": m.EnsurePod(podOf()), "RemovePod": m.RemovePod("u"), "Pods": listed,
	} {
		if !errors.Is(err, errDriver) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if m.PodsCgroup() != "" || m.PodCgroup(podOf()) != "" {
		t.Error("there are paths")
	}
	if err := m.SetDriver("dockerfs"); err == nil || m.PodsCgroup() != "" {
		t.Errorf("a driver that is none: %v, %q", err, m.PodsCgroup())
	}
	if err := m.SetDriver(DriverCgroupfs); err != nil || !strings.HasSuffix(m.PodsCgroup(), "/kubepods") {
		t.Errorf("%v, %q", err, m.PodsCgroup())
	}
	if err := m.Setup(); err == nil || !strings.Contains(err.Error(), "cgroupRoot") {
		t.Errorf("Setup: %v", err)
	}
}

// machine makes a manager below a parent of its own in every hierarchy of this machine and removes all at the end.
func machine(t *testing.T) *Manager {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test makes cgroups: run it as root")
	}
	root := fmt.Sprintf("/minikubelet-test-%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)
	m, err := New(Options{
		Root: root, PerQOS: true, CPUCFSQuota: true, PodPidsLimit: 99,
		Allocatable: corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi"), "pid": resource.MustParse("500")},
		LimitPods:   true,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, mount := range m.allMounts() {
		dir := filepath.Join(mount, root)
		t.Cleanup(func() {
			if err := libcgroups.RemovePath(dir); err != nil && !os.IsNotExist(err) {
				t.Errorf("leftover cgroup: %v", err)
			}
		})
	}
	for _, controller := range m.controllers() {
		if err := os.MkdirAll(filepath.Join(m.mounts[controller], root), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Setup(); err != nil {
		t.Fatal(err)
	}
	return m
}

// read returns a value of the cgroup under its v1 or its v2 name.
func read(t *testing.T, m *Manager, n name, controller, v1, v2 string) string {
	t.Helper()
	file := filepath.Join(m.mounts[controller], m.path(n), v1)
	if m.unified {
		file = filepath.Join(unifiedRoot, m.path(n), v2)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func TestTreeOnThisMachine(t *testing.T) {
	m := machine(t)
	pod := podOf(corev1.ResourceRequirements{Requests: list("500m", "64Mi"), Limits: list("1", "64Mi")})
	pick := func(v1, v2 string) string {
		if m.unified {
			return v2
		}
		return v1
	}
	if got := read(t, m, m.root, "memory", "memory.limit_in_bytes", "memory.max"); got != strconv.Itoa(1<<30) {
		t.Errorf("kubepods memory limit %s", got)
	}
	if got, want := read(t, m, m.root, "cpu", "cpu.shares", "cpu.weight"), pick("1024", "39"); got != want {
		t.Errorf("kubepods CPU %s, want %s", got, want)
	}
	for range 2 { // the second call changes nothing
		if err := m.EnsurePod(pod); err != nil {
			t.Fatal(err)
		}
	}
	n := m.podName(pod)
	if m.PodParent(pod) != m.path(n) || !strings.HasSuffix(m.PodParent(pod), "/kubepods/burstable/pod1234-56") {
		t.Errorf("parent %s", m.PodParent(pod))
	}
	if got := read(t, m, n, "memory", "memory.limit_in_bytes", "memory.max"); got != strconv.Itoa(64<<20) {
		t.Errorf("pod memory limit %s", got)
	}
	if got, want := read(t, m, n, "cpu", "cpu.shares", "cpu.weight"), pick("512", "20"); got != want {
		t.Errorf("pod CPU %s, want %s", got, want)
	}
	if got, want := read(t, m, n, "cpu", "cpu.cfs_quota_us", "cpu.max"), pick("100000", "100000 100000"); got != want {
		t.Errorf("pod quota %s, want %s", got, want)
	}
	if got := read(t, m, n, "pids", "pids.max", "pids.max"); got != "99" {
		t.Errorf("pod processes %s", got)
	}
	if err := m.UpdateQOS([]*corev1.Pod{pod, podOf(corev1.ResourceRequirements{})}); err != nil {
		t.Fatal(err)
	}
	if got, want := read(t, m, m.root.child(burstable), "cpu", "cpu.shares", "cpu.weight"), pick("512", "20"); got != want {
		t.Errorf("tier CPU %s, want %s", got, want)
	}
	pods, err := m.Pods()
	if err != nil || cmp.Diff(pods, []types.UID{"1234-56"}) != "" {
		t.Errorf("pods %v %v", pods, err)
	}

	// A process the runtime left behind, in a cgroup below the pod's, does not keep it.
	child := filepath.Join(m.mounts[m.controllers()[0]], m.path(n), "leftover")
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	command := exec.Command("sleep", "3600")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	if err := libcgroups.WriteCgroupProc(child, command.Process.Pid); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- command.Wait() }()
	for range 2 { // idempotent
		if err := m.RemovePod(pod.UID); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("leftover process: %v", err)
	}
	if pods, err := m.Pods(); err != nil || len(pods) != 0 {
		t.Errorf("pods after removal %v %v", pods, err)
	}
	if err := m.EnsurePod(pod); err != nil { // and can be made again
		t.Fatal(err)
	}
}

// TestTiersApart: the tiers are written to without the lock of pods' cgroups. With the systemd driver systemd is waited for.
func TestTiersApart(t *testing.T) {
	m, err := New(Options{PerQOS: true})
	if err != nil {
		t.Fatal(err)
	}
	m.burstable = burstableShares(nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.UpdateQOS(nil); err != nil {
		t.Error(err)
	}
}

func TestWithoutQOS(t *testing.T) {
	m, err := New(Options{Root: "/plain"})
	if err != nil {
		t.Fatal(err)
	}
	pod := podOf(corev1.ResourceRequirements{})
	for _, err := range []error{m.Setup(), m.EnsurePod(pod), m.UpdateQOS([]*corev1.Pod{pod}), m.RemovePod(pod.UID)} {
		if err != nil {
			t.Error(err)
		}
	}
	if got := m.PodParent(pod); got != "/plain" {
		t.Errorf("parent %s", got)
	}
}

func TestPaths(t *testing.T) {
	m := &Manager{options: Options{PerQOS: true}, root: name{"top", "kubepods"}}
	pod := podOf(corev1.ResourceRequirements{})
	if got := m.PodsCgroup(); got != "/top/kubepods" {
		t.Errorf("all pods are in %q", got)
	}
	if got := m.PodCgroup(pod); got != "/top/kubepods/besteffort/pod1234-56" {
		t.Errorf("the pod is in %q", got)
	}
	pod.UID = "../.."
	if got := m.PodCgroup(pod); got != "" {
		t.Errorf("a pod with a strange UID is in %q", got)
	}
	if m = (&Manager{}); m.PodsCgroup() != "" || m.PodCgroup(podOf()) != "" {
		t.Error("pods without cgroups of their own are somewhere")
	}
}
