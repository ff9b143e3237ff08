package status

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func amounts(cpu, memory string) corev1.ResourceList {
	list := corev1.ResourceList{}
	if cpu != "" {
		list[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		list[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return list
}

func write(list corev1.ResourceList) string {
	return list.Cpu().String() + " " + list.Memory().String()
}

// TestPodResources: a pod that does not run yet has its allocation, one that runs what its cgroup says; too little CPU for a
// cgroup to tell is what was asked for.
func TestPodResources(t *testing.T) {
	running, waiting := observed(true, ran("a", 0, runningState, 0)), observed(true)
	for _, tc := range []struct {
		name           string
		pod, container *corev1.ResourceRequirements
		cgroup         *corev1.ResourceRequirements
		waits          bool
		allocated, got string
		limits         string
	}{
		{name: "not running", container: &corev1.ResourceRequirements{Requests: amounts("1", "1Mi"), Limits: amounts("2", "")},
			cgroup: &corev1.ResourceRequirements{Requests: amounts("9", "")}, waits: true, allocated: "1 1Mi", got: "1 1Mi", limits: "2 0"},
		{name: "by its cgroup", container: &corev1.ResourceRequirements{Requests: amounts("1", "1Mi"), Limits: amounts("2", "")},
			cgroup: &corev1.ResourceRequirements{Requests: amounts("3", "1Mi"), Limits: amounts("4", "5Mi")}, allocated: "1 1Mi", got: "3 1Mi", limits: "4 5Mi"},
		{name: "too little to tell", pod: &corev1.ResourceRequirements{Requests: amounts("1m", ""), Limits: amounts("5m", "")},
			cgroup: &corev1.ResourceRequirements{Requests: amounts("2m", ""), Limits: amounts("10m", "")}, allocated: "1m 0", got: "1m 0", limits: "5m 0"},
		{name: "best effort", cgroup: &corev1.ResourceRequirements{}, allocated: "0 0", got: "0 0", limits: "0 0"},
		{name: "nothing known", container: &corev1.ResourceRequirements{Requests: amounts("1", "")}, allocated: "1 0", got: "1 0", limits: "0 0"},
	} {
		pod := spec(corev1.RestartPolicyAlways, nil, nil, "a")
		pod.Spec.Resources = tc.pod
		if tc.container != nil {
			pod.Spec.Containers[0].Resources = *tc.container
		}
		seen := running
		if tc.waits {
			seen = waiting
		}
		s := compute(pod, seen, func(in *Inputs) { in.PodResources = tc.cgroup })
		if write(s.AllocatedResources) != tc.allocated || write(s.Resources.Requests) != tc.got || write(s.Resources.Limits) != tc.limits {
			t.Errorf("%s: given %s, has %s, limits %s", tc.name, write(s.AllocatedResources), write(s.Resources.Requests), write(s.Resources.Limits))
		}
	}
}

// TestLagging: the memory request of a container that has not been resized yet is the one it had.
func TestLagging(t *testing.T) {
	pod := spec(corev1.RestartPolicyAlways, nil, nil, "a")
	pod.Spec.Containers[0].Resources.Requests = amounts("", "2Mi")
	lags := func(in *Inputs) {
		in.Lagging = map[string]corev1.ResourceRequirements{"a": {Requests: amounts("", "1Mi")}}
		in.Resize = []corev1.PodCondition{{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, ObservedGeneration: 2}}
	}
	s := compute(pod, observed(true, ran("a", 0, runningState, 0)), lags)
	if c := s.ContainerStatuses[0]; write(c.Resources.Requests) != "0 1Mi" || write(c.AllocatedResources) != "0 2Mi" {
		t.Errorf("has %s, was given %s", write(c.Resources.Requests), write(c.AllocatedResources))
	}
	if c := condition(s, corev1.PodResizeInProgress); c.Status != corev1.ConditionTrue || c.ObservedGeneration != 2 {
		t.Errorf("condition %+v", c)
	}
	s = compute(pod, observed(false, ran("a", 0, exitedState, 0)), lags, terminated)
	if c := condition(s, corev1.PodResizeInProgress); c.Type != "" {
		t.Errorf("an ended pod is being resized: %+v", c)
	}
	// What an earlier kubelet wrote does not stay for good.
	s = compute(pod, observed(true, ran("a", 0, runningState, 0)), func(in *Inputs) {
		in.Old = &corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodResizePending, Status: corev1.ConditionTrue}}}
	})
	if c := condition(s, corev1.PodResizePending); c.Type != "" {
		t.Errorf("a resize that nobody asked for: %+v", c)
	}
}

// TestRestartAll follows a pod whose container ends so that all begin anew: the end, the removal, the start.
func TestRestartAll(t *testing.T) {
	pod := spec(corev1.RestartPolicyNever, []string{"i"}, nil, "a", "b")
	a := &pod.Spec.Containers[0]
	a.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
	a.RestartPolicyRules = []corev1.ContainerRestartRule{{
		Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{9}},
	}}
	var s corev1.PodStatus
	step := func(phase corev1.PodPhase, restarting corev1.ConditionStatus) {
		t.Helper()
		if s.Phase != phase || condition(s, corev1.AllContainersRestarting).Status != restarting {
			t.Errorf("phase %s, restarting %s; want %s, %s", s.Phase, condition(s, corev1.AllContainersRestarting).Status, phase, restarting)
		}
	}
	next := func(in *Inputs) { in.Old = s.DeepCopy() }
	s = compute(pod, observed(true, ran("i", 0, exitedState, 0), ran("a", 0, runningState, 0), ran("b", 0, runningState, 0)))
	step(corev1.PodRunning, corev1.ConditionFalse)

	s = compute(pod, observed(true, ran("i", 0, exitedState, 0), ran("a", 0, exitedState, 9), ran("b", 0, runningState, 0)), next)
	step(corev1.PodRunning, corev1.ConditionTrue)

	s = compute(pod, observed(true), next)
	for _, c := range append(s.InitContainerStatuses, s.ContainerStatuses...) {
		last := c.LastTerminationState.Terminated
		if c.State.Waiting == nil || c.State.Waiting.Reason != reasonRestartingAll || c.RestartCount != 1 || last == nil || last.Reason != reasonRestartingAll || last.ExitCode != 137 {
			t.Errorf("removed container: %+v", c)
		}
	}
	if condition(s, corev1.AllContainersRestarting).Status != corev1.ConditionFalse || s.Phase == corev1.PodFailed {
		t.Errorf("after the removal: phase %s, %+v", s.Phase, condition(s, corev1.AllContainersRestarting))
	}

	s = compute(pod, observed(true, ran("i", 1, exitedState, 0), ran("a", 1, runningState, 0), ran("b", 1, runningState, 0)), next)
	step(corev1.PodRunning, corev1.ConditionFalse)
	for _, c := range append(s.InitContainerStatuses, s.ContainerStatuses...) {
		if c.RestartCount != 1 || c.LastTerminationState.Terminated == nil || c.State.Waiting != nil {
			t.Errorf("container that began anew: %+v", c)
		}
	}
	if s := compute(spec(corev1.RestartPolicyNever, nil, nil, "a"), observed(true)); condition(s, corev1.AllContainersRestarting).Type != "" {
		t.Error("a pod without such a rule has the condition")
	}
}
