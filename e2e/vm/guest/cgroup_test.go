package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	libcgroups "github.com/opencontainers/cgroups"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

const forever = "trap 'exit 0' TERM; while :; do sleep 1; done"

func amounts(cpu, memory string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, text := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
		if text != "" {
			out[name] = resource.MustParse(text)
		}
	}
	return out
}

// weight is what the kubelet makes of cpu.shares, linearly.
func weight(shares uint64) string { return fmt.Sprint(1 + (shares-2)*9999/262142) }

// runcWeight is what runc makes of them, by a curve on which 1024 is 100.
func runcWeight(shares uint64) string {
	return fmt.Sprint(libcgroups.ConvertCPUSharesToCgroupV2Value(shares))
}

// unprotected is what this kubelet, like upstream's without the MemoryQoS feature, leaves alone.
func unprotected(t *testing.T, group string) {
	t.Helper()
	expect(t, group, map[string]string{"memory.min": "0", "memory.low": "0", "memory.high": "max"})
}

// TestNode: cgroup v2 is all there is, and all pods together may use what is not reserved.
func TestNode(t *testing.T) {
	if !libcgroups.IsCgroup2UnifiedMode() {
		t.Fatal("this is not cgroup v2")
	}
	for _, group := range []string{"kubepods", "kubepods/burstable", "kubepods/besteffort"} {
		have := strings.Fields(value(t, group, "cgroup.controllers"))
		for _, controller := range []string{"cpu", "memory", "pids", "io", "cpuset"} {
			if !strings.Contains(" "+strings.Join(have, " ")+" ", " "+controller+" ") {
				t.Errorf("%s has no controller %s: %v", group, controller, have)
			}
		}
		unprotected(t, group)
	}
	var total int64
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(meminfo), "MemTotal: %d kB", &total); err != nil {
		t.Fatal(err)
	}
	page := int64(os.Getpagesize())
	cpus := uint64(strings.Count(string(readFile(t, "/proc/cpuinfo")), "processor\t"))
	expect(t, "kubepods", map[string]string{
		"memory.max": fmt.Sprint((total*1024 - reservedMemory) / page * page), "cpu.weight": weight(cpus * 1024), "cpu.max": "max 100000",
	})
	if limit, err := strconv.Atoi(value(t, "kubepods", "pids.max")); err != nil || limit < 1000 {
		t.Errorf("all pods together may have %s processes", value(t, "kubepods", "pids.max"))
	}
	expect(t, "kubepods/besteffort", map[string]string{"cpu.weight": "1", "memory.max": "max", "pids.max": "max"})
	expect(t, "kubepods/burstable", map[string]string{"memory.max": "max", "pids.max": "max"})
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestPods: the cgroups of a pod of each class, of its containers, and that they go with it.
func TestPods(t *testing.T) {
	static(t, "guaranteed", shell("c", forever, corev1.ResourceRequirements{Limits: amounts("600m", "64Mi")}))
	static(t, "burstable",
		shell("limited", forever, corev1.ResourceRequirements{Requests: amounts("300m", "32Mi"), Limits: amounts("800m", "48Mi")}),
		shell("open", forever, corev1.ResourceRequirements{Requests: amounts("100m", "")}))
	static(t, "besteffort", shell("c", forever, corev1.ResourceRequirements{}))
	guaranteed, burstable, besteffort := running(t, "guaranteed"), running(t, "burstable"), running(t, "besteffort")
	pids := fmt.Sprint(podPids)
	for pod, want := range map[*corev1.Pod]map[string]string{
		guaranteed: {"cpu.weight": weight(614), "cpu.max": "60000 100000", "memory.max": fmt.Sprint(64 << 20), "pids.max": pids},
		burstable:  {"cpu.weight": weight(409), "cpu.max": "max 100000", "memory.max": "max", "pids.max": pids},
		besteffort: {"cpu.weight": "1", "cpu.max": "max 100000", "memory.max": "max", "pids.max": pids},
	} {
		expect(t, groupOf(pod), want)
		unprotected(t, groupOf(pod))
		for _, c := range pod.Spec.Containers {
			expect(t, containerGroup(pod, c.Name), map[string]string{"memory.oom.group": "1", "memory.swap.max": "0", "pids.max": "max"})
			unprotected(t, containerGroup(pod, c.Name))
			if procs := value(t, containerGroup(pod, c.Name), "cgroup.procs"); procs == "" {
				t.Errorf("no process of %s/%s is in its cgroup", pod.Name, c.Name)
			}
		}
	}
	expect(t, containerGroup(guaranteed, "c"), map[string]string{"cpu.weight": runcWeight(614), "cpu.max": "60000 100000", "memory.max": fmt.Sprint(64 << 20)})
	expect(t, containerGroup(burstable, "limited"), map[string]string{"cpu.weight": runcWeight(307), "cpu.max": "80000 100000", "memory.max": fmt.Sprint(48 << 20)})
	expect(t, containerGroup(burstable, "open"), map[string]string{"cpu.weight": runcWeight(102), "cpu.max": "max 100000", "memory.max": "max"})
	expect(t, containerGroup(besteffort, "c"), map[string]string{"cpu.weight": runcWeight(2), "cpu.max": "max 100000", "memory.max": "max"})
	tier(t, 409)

	for _, pod := range []*corev1.Pod{guaranteed, burstable, besteffort} {
		if err := os.Remove(manifest(strings.TrimSuffix(pod.Name, "-"+nodeName))); err != nil {
			t.Fatal(err)
		}
	}
	for _, pod := range []*corev1.Pod{guaranteed, burstable, besteffort} {
		gone(t, pod)
	}
	tier(t, 2)
}

// tier waits until the burstable pods together have the CPU shares that they ask for together.
func tier(t *testing.T, shares uint64) {
	t.Helper()
	eventually(t, "the burstable tier has its weight", func() error {
		if got := value(t, "kubepods/burstable", "cpu.weight"); got != weight(shares) {
			return fmt.Errorf("it is %s, not %s", got, weight(shares))
		}
		return nil
	})
}

// gone waits until a pod has no cgroup.
func gone(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	eventually(t, "the cgroup of "+pod.Name+" is removed", func() error {
		if _, err := os.Stat(filepath.Join(root, groupOf(pod))); err == nil {
			return fmt.Errorf("%s is there", groupOf(pod))
		}
		return nil
	})
}

// TestMemoryLimit: who uses more memory than allowed is killed with all processes of the container, and the pod says why.
func TestMemoryLimit(t *testing.T) {
	static(t, "greedy", shell("c", "tail /dev/zero; echo outlived >/dev/termination-log; sleep 1000", corev1.ResourceRequirements{Limits: amounts("", "24Mi")}))
	var state *corev1.ContainerStateTerminated
	pod := find(t, "greedy", "killed", func(p *corev1.Pod) bool {
		for _, c := range p.Status.ContainerStatuses {
			if state = c.State.Terminated; state == nil {
				state = c.LastTerminationState.Terminated
			}
		}
		return state != nil
	})
	if state.Reason != "OOMKilled" || state.ExitCode != 137 {
		t.Errorf("the container ended with %+v", state)
	}
	expect(t, groupOf(pod), map[string]string{"memory.max": fmt.Sprint(24 << 20)})
	if keyed(t, groupOf(pod), "memory.events", "oom_kill") == 0 {
		t.Errorf("memory.events of the pod: %s", value(t, groupOf(pod), "memory.events"))
	}
}

// TestProcessLimit: a pod gets no more processes than podPidsLimit.
func TestProcessLimit(t *testing.T) {
	static(t, "forks", shell("c", "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; echo all; wait", corev1.ResourceRequirements{}))
	pod := find(t, "forks", "there", func(p *corev1.Pod) bool { return len(p.Status.ContainerStatuses) == 1 })
	eventually(t, "a fork fails", func() error {
		logs, err := filepath.Glob(filepath.Join(podLogs, "default_"+pod.Name+"_*/c/*.log"))
		if err != nil {
			return err
		}
		text := ""
		for _, log := range logs {
			text += string(readFile(t, log))
		}
		if strings.Contains(text, " all") {
			t.Fatalf("nothing stopped it; pids.max is %s", value(t, groupOf(pod), "pids.max"))
		}
		if !strings.Contains(text, "can't fork") {
			return fmt.Errorf("the log is %q", text)
		}
		return nil
	})
}

// TestCPULimit: who uses more CPU than allowed is held back.
func TestCPULimit(t *testing.T) {
	static(t, "busy", shell("c", "while :; do :; done", corev1.ResourceRequirements{Limits: amounts("500m", "")}))
	pod := running(t, "busy")
	eventually(t, "the container is throttled", func() error {
		for _, group := range []string{groupOf(pod), containerGroup(pod, "c")} {
			expect(t, group, map[string]string{"cpu.max": "50000 100000"})
		}
		if keyed(t, groupOf(pod), "cpu.stat", "nr_throttled")+keyed(t, containerGroup(pod, "c"), "cpu.stat", "nr_throttled") == 0 {
			return errors.New(value(t, groupOf(pod), "cpu.stat"))
		}
		return nil
	})
}
