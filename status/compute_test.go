package status

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

const (
	createdState = runtimeapi.ContainerState_CONTAINER_CREATED
	runningState = runtimeapi.ContainerState_CONTAINER_RUNNING
	exitedState  = runtimeapi.ContainerState_CONTAINER_EXITED
)

// ran is an instance of a container as the runtime reports it.
func ran(name string, attempt uint32, state runtimeapi.ContainerState, code int32) *cri.ContainerStatus {
	c := &cri.ContainerStatus{
		ID: name + "-" + string(rune('0'+attempt)), SandboxID: "sb", Name: name, Attempt: attempt, State: state, ExitCode: code,
		CreatedAt: noon.Add(time.Duration(attempt) * time.Minute), Image: "app:1", ImageRef: "sha256:1",
	}
	if state != createdState {
		c.StartedAt = c.CreatedAt.Add(time.Second)
	}
	if state == exitedState {
		c.FinishedAt = c.CreatedAt.Add(2 * time.Second)
	}
	return c
}

// outOfMemory is an instance one of whose processes was killed for lack of memory, and which ended with code 0.
func outOfMemory(name string) *cri.ContainerStatus {
	c := ran(name, 0, exitedState, 0)
	c.Reason = "OOMKilled"
	return c
}

func observed(ready bool, containers ...*cri.ContainerStatus) *cri.PodStatus {
	s := &cri.PodStatus{UID: "u", Containers: containers}
	if ready {
		s.Sandboxes = []*runtimeapi.PodSandboxStatus{{Id: "sb", State: runtimeapi.PodSandboxState_SANDBOX_READY}}
		s.IPs = []string{"10.0.0.5"}
	}
	return s
}

func spec(policy corev1.RestartPolicy, inits []string, sidecars []string, regular ...string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Generation: 3}, Spec: corev1.PodSpec{RestartPolicy: policy}}
	always := corev1.ContainerRestartPolicyAlways
	for _, name := range sidecars {
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: name, RestartPolicy: &always})
	}
	for _, name := range inits {
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: name})
	}
	for _, name := range regular {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name})
	}
	return pod
}

func compute(pod *corev1.Pod, o *cri.PodStatus, change ...func(*Inputs)) corev1.PodStatus {
	in := Inputs{Pod: pod, Observed: o, HostIPs: []string{"192.168.0.1"}, RuntimeName: "containerd", Now: noon}
	for _, c := range change {
		c(&in)
	}
	return Compute(in)
}

func condition(s corev1.PodStatus, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}

func terminated(in *Inputs) { in.Terminating, in.Terminated = true, true }

func TestPhase(t *testing.T) {
	const always, never, onFailure = corev1.RestartPolicyAlways, corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure
	tests := []struct {
		name   string
		pod    *corev1.Pod
		seen   *cri.PodStatus
		change func(*Inputs)
		want   corev1.PodPhase
	}{
		{"nothing yet", spec(always, nil, nil, "a"), observed(false), nil, corev1.PodPending},
		{"created", spec(always, nil, nil, "a"), observed(true, ran("a", 0, createdState, 0)), nil, corev1.PodPending},
		{"running", spec(always, nil, nil, "a"), observed(true, ran("a", 0, runningState, 0)), nil, corev1.PodRunning},
		{"one of two runs", spec(always, nil, nil, "a", "b"), observed(true, ran("a", 0, runningState, 0)), nil, corev1.PodPending},
		{"one runs, one ended", spec(never, nil, nil, "a", "b"), observed(true, ran("a", 0, runningState, 0), ran("b", 0, exitedState, 1)), nil, corev1.PodRunning},
		{"ended well, always", spec(always, nil, nil, "a"), observed(true, ran("a", 0, exitedState, 0)), nil, corev1.PodRunning},
		{"ended well, never", spec(never, nil, nil, "a"), observed(true, ran("a", 0, exitedState, 0)), nil, corev1.PodSucceeded},
		{"ended badly, never", spec(never, nil, nil, "a"), observed(true, ran("a", 0, exitedState, 1)), nil, corev1.PodFailed},
		{"ended well, on failure", spec(onFailure, nil, nil, "a"), observed(true, ran("a", 0, exitedState, 0)), nil, corev1.PodSucceeded},
		{"ended badly, on failure", spec(onFailure, nil, nil, "a"), observed(true, ran("a", 0, exitedState, 1)), nil, corev1.PodRunning},
		{"one well, one badly, never", spec(never, nil, nil, "a", "b"), observed(true, ran("a", 0, exitedState, 0), ran("b", 0, exitedState, 2)), nil, corev1.PodFailed},
		{"init runs", spec(always, []string{"i"}, nil, "a"), observed(true, ran("i", 0, runningState, 0)), nil, corev1.PodPending},
		{"init failed, always", spec(always, []string{"i"}, nil, "a"), observed(true, ran("i", 0, exitedState, 1)), nil, corev1.PodPending},
		{"init failed, never", spec(never, []string{"i"}, nil, "a"), observed(true, ran("i", 0, exitedState, 1)), nil, corev1.PodFailed},
		{"init out of memory with code 0, never", spec(never, []string{"i"}, nil, "a"), observed(true, outOfMemory("i")), nil, corev1.PodFailed},
		{"init out of memory with code 0, on failure", spec(onFailure, []string{"i"}, nil, "a"), observed(true, outOfMemory("i")), nil, corev1.PodPending},
		{"init done, regular runs", spec(never, []string{"i"}, nil, "a"), observed(true, ran("i", 0, exitedState, 0), ran("a", 0, runningState, 0)), nil, corev1.PodRunning},
		{"sidecar runs alone", spec(never, nil, []string{"s"}, "a"), observed(true, ran("s", 0, runningState, 0)), nil, corev1.PodPending},
		{"sidecar runs on, regular ended", spec(never, nil, []string{"s"}, "a"), observed(true, ran("s", 0, runningState, 0), ran("a", 0, exitedState, 0)), nil, corev1.PodSucceeded},
		{"terminated while running", spec(always, nil, nil, "a"), observed(false, ran("a", 0, exitedState, 137)), terminated, corev1.PodFailed},
		{"terminated, ended well", spec(always, nil, nil, "a"), observed(false, ran("a", 0, exitedState, 0)), terminated, corev1.PodSucceeded},
		{"terminated before it began", spec(always, nil, nil, "a"), observed(false), terminated, corev1.PodFailed},
		{"an end is final", spec(always, nil, nil, "a"), observed(false), func(in *Inputs) { in.Old = &corev1.PodStatus{Phase: corev1.PodSucceeded} }, corev1.PodSucceeded},
		{"an end is final without containers", spec(never, nil, nil, "a"), observed(false), func(in *Inputs) {
			terminated(in)
			in.Old = &corev1.PodStatus{Phase: corev1.PodSucceeded}
		}, corev1.PodSucceeded},
		{"init failed and waits, never", spec(never, []string{"i"}, nil, "a"), observed(false), func(in *Inputs) {
			in.Old = &corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{{Name: "i", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}}}}
		}, corev1.PodFailed},
		{"past its deadline, still running", spec(always, nil, nil, "a"), observed(true, ran("a", 0, runningState, 0)), func(in *Inputs) {
			in.Terminating, in.Override = true, &Override{Phase: corev1.PodFailed, Reason: "DeadlineExceeded", Message: "x"}
		}, corev1.PodRunning},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var changes []func(*Inputs)
			if tt.change != nil {
				changes = append(changes, tt.change)
			}
			s := compute(tt.pod, tt.seen, changes...)
			if s.Phase != tt.want {
				t.Errorf("phase %s, want %s", s.Phase, tt.want)
			}
			if s.ObservedGeneration != 3 || s.StartTime == nil || s.HostIP != "192.168.0.1" {
				t.Errorf("observedGeneration %d, startTime %v, hostIP %q", s.ObservedGeneration, s.StartTime, s.HostIP)
			}
			for _, kind := range everyPod {
				if c := condition(s, kind); c.Type == "" || c.ObservedGeneration != 3 {
					t.Errorf("condition %s: %+v", kind, c)
				}
			}
		})
	}
}

func TestContainerStates(t *testing.T) {
	pod := spec(corev1.RestartPolicyAlways, nil, nil, "a")
	crash := func(in *Inputs) {
		in.Waiting = map[string]Waiting{"a": {"CrashLoopBackOff", "back-off 10s"}}
	}

	s := compute(pod, observed(true, ran("a", 1, runningState, 0), ran("a", 0, exitedState, 3)))
	c := s.ContainerStatuses[0]
	if c.State.Running == nil || !c.Ready || c.RestartCount != 1 || c.ContainerID != "containerd://a-1" || !*c.Started {
		t.Errorf("a running one: %+v", c)
	}
	if last := c.LastTerminationState.Terminated; last == nil || last.ExitCode != 3 || last.Reason != "Error" {
		t.Errorf("its last state: %+v", c.LastTerminationState)
	}
	if condition(s, corev1.PodReady).Status != corev1.ConditionTrue {
		t.Errorf("conditions: %+v", s.Conditions)
	}

	s = compute(pod, observed(true, ran("a", 0, exitedState, 3)), crash)
	c = s.ContainerStatuses[0]
	if c.State.Waiting == nil || c.State.Waiting.Reason != "CrashLoopBackOff" || c.LastTerminationState.Terminated == nil || c.Ready {
		t.Errorf("a crashing one: %+v", c)
	}
	if s.Phase != corev1.PodRunning || condition(s, corev1.ContainersReady).Reason != "ContainersNotReady" {
		t.Errorf("its pod: %s, %+v", s.Phase, s.Conditions)
	}

	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	s = compute(pod, observed(true), func(in *Inputs) { in.Waiting = map[string]Waiting{"a": {"ErrImagePull", "no"}} })
	if mounts := s.ContainerStatuses[0].VolumeMounts; len(mounts) != 1 || mounts[0].Name != "v" || mounts[0].MountPath != "/v" {
		t.Errorf("the mounts of one that was not created: %+v", mounts)
	}
	if w := s.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "ErrImagePull" || w.Message != "no" {
		t.Errorf("one without an image: %+v", s.ContainerStatuses[0])
	}

	// The runtime forgot it.
	old := compute(pod, observed(true, ran("a", 2, exitedState, 3)))
	s = compute(pod, observed(true), func(in *Inputs) { in.Old = &old })
	if c := s.ContainerStatuses[0]; c.State.Terminated == nil || c.State.Terminated.ExitCode != 3 || c.RestartCount != 2 {
		t.Errorf("a collected one: %+v", c)
	}

	// It forgot the end that a container in back-off had, and runs the next instance.
	old = compute(pod, observed(true, ran("a", 1, exitedState, 3)), crash)
	s = compute(pod, observed(true, ran("a", 2, runningState, 0)), func(in *Inputs) { in.Old = &old })
	if last := s.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 3 {
		t.Errorf("the end before one that was in back-off: %+v", last)
	}

	init := spec(corev1.RestartPolicyAlways, []string{"i"}, nil, "a")
	s = compute(init, observed(true, ran("i", 0, runningState, 0)))
	if w := s.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "PodInitializing" {
		t.Errorf("one that waits for init containers: %+v", s.ContainerStatuses[0])
	}
	if i := condition(s, corev1.PodInitialized); i.Status != corev1.ConditionFalse || i.Message != "containers with incomplete status: [i]" {
		t.Errorf("Initialized: %+v", i)
	}

	s = compute(pod, observed(false), terminated)
	if end := s.ContainerStatuses[0].State.Terminated; end == nil || end.Reason != "ContainerStatusUnknown" || end.ExitCode != 137 {
		t.Errorf("one that never ran, of an ended pod: %+v", s.ContainerStatuses[0])
	}

	s = compute(pod, observed(true, ran("a", 0, runningState, 0)), func(in *Inputs) { in.Unready = map[string]bool{"a-0": true} })
	if s.ContainerStatuses[0].Ready || condition(s, corev1.PodReady).Message != "containers with unready status: [a]" {
		t.Errorf("one that fails its readiness probe: %+v", s)
	}
}

// TestInitEndedWell: as upstream, an init container or sidecar whose newest instance ended with code 0 is shown as ended, whatever
// its reason and also while it waits to run again; one of which the runtime has no record any more waits.
func TestInitEndedWell(t *testing.T) {
	for _, policy := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure} {
		for name, pod := range map[string]*corev1.Pod{"init": spec(policy, []string{"i"}, nil, "a"), "sidecar": spec(policy, nil, []string{"i"}, "a")} {
			wait := func(in *Inputs) { in.Waiting = map[string]Waiting{"i": {"CrashLoopBackOff", "back-off 10s"}} }
			s := compute(pod, observed(true, outOfMemory("i")), wait)
			if c := s.InitContainerStatuses[0]; c.State.Terminated == nil || c.State.Terminated.Reason != "OOMKilled" || c.LastTerminationState.Terminated != nil {
				t.Errorf("%s, %s: %+v", name, policy, c)
			}
			s = compute(pod, observed(true, ran("i", 0, exitedState, 1)), wait)
			if c := s.InitContainerStatuses[0]; c.State.Waiting == nil || c.LastTerminationState.Terminated == nil {
				t.Errorf("%s, %s, failed: %+v", name, policy, c)
			}
		}
	}
	pod := spec(corev1.RestartPolicyAlways, []string{"i"}, nil, "a")
	old := []corev1.ContainerStatus{{Name: "i", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	s := compute(pod, observed(false), func(in *Inputs) {
		in.Old, in.Waiting = &corev1.PodStatus{InitContainerStatuses: old}, map[string]Waiting{"i": {"ErrImagePull", "no"}}
	})
	if c := s.InitContainerStatuses[0]; c.State.Waiting == nil {
		t.Errorf("without a record: %+v", c)
	}
}

// TestRestartCountStays: the runtime's numbers begin anew when it has lost its records, the status counts on.
func TestRestartCountStays(t *testing.T) {
	pod := spec(corev1.RestartPolicyAlways, nil, nil, "a")
	var s corev1.PodStatus
	for i, step := range []struct {
		seen  *cri.PodStatus
		count int32
		last  bool // there is an end of an earlier run
	}{
		{observed(true, ran("a", 0, runningState, 0)), 0, false},
		{observed(true, ran("a", 0, exitedState, 3)), 0, false},
		{observed(true, ran("a", 1, createdState, 0), ran("a", 0, exitedState, 3)), 0, true},
		{observed(true, ran("a", 0, exitedState, 3)), 0, false}, // what was never started is removed
		{observed(true, ran("a", 1, runningState, 0), ran("a", 0, exitedState, 3)), 1, true},
		{observed(true, ran("a", 1, exitedState, 3)), 1, true},
		{observed(true), 1, true},
		{observed(true, ran("a", 0, runningState, 0)), 2, true},
		{observed(true, ran("a", 0, runningState, 0)), 2, true},
		{observed(true, ran("a", 0, exitedState, 3)), 2, true},
		{observed(true, ran("a", 1, runningState, 0), ran("a", 0, exitedState, 3)), 3, true},
	} {
		s = compute(pod, step.seen, func(in *Inputs) { in.Old = s.DeepCopy() })
		if c := s.ContainerStatuses[0]; c.RestartCount != step.count || (c.LastTerminationState.Terminated != nil) != step.last {
			t.Errorf("step %d: count %d, want %d; last state %+v", i, c.RestartCount, step.count, c.LastTerminationState)
		}
	}
}

// TestHoldBack: the worker ends a pod whose sidecar still runs, the apiserver hears of it when nothing does.
func TestHoldBack(t *testing.T) {
	in := Inputs{
		Pod:      spec(corev1.RestartPolicyNever, nil, []string{"s"}, "a"),
		Observed: observed(true, ran("s", 0, runningState, 0), ran("a", 0, exitedState, 0)),
		Old:      &corev1.PodStatus{Phase: corev1.PodRunning}, Now: noon,
	}
	s := Compute(in)
	if s.Phase != corev1.PodSucceeded {
		t.Fatalf("computed phase %s", s.Phase)
	}
	if held := HoldBack(s, in); held.Phase != corev1.PodRunning || held.ContainerStatuses[0].State.Terminated == nil {
		t.Errorf("told while the sidecar runs: %s, %+v", held.Phase, held.ContainerStatuses)
	}
	in.Observed = observed(true, ran("s", 0, exitedState, 0), ran("a", 0, exitedState, 0))
	if held := HoldBack(Compute(in), in); held.Phase != corev1.PodSucceeded {
		t.Errorf("told when nothing runs: %s", held.Phase)
	}
}

// TestRejected: of a pod that the node did not take there is neither a container nor an allocation, and only the conditions that
// it came with.
func TestRejected(t *testing.T) {
	pod := spec(corev1.RestartPolicyAlways, nil, nil, "a")
	pod.Generation = 2
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("9")}
	scheduled := []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
	s := compute(pod, observed(false), func(in *Inputs) {
		in.Old = &corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBurstable, Conditions: scheduled}
		in.Override = &Override{Phase: corev1.PodFailed, Reason: "OutOfcpu", Message: "Pod was rejected: x"}
	})
	want := corev1.PodStatus{
		ObservedGeneration: 2, Phase: corev1.PodFailed, Reason: "OutOfcpu", Message: "Pod was rejected: x",
		QOSClass: corev1.PodQOSBurstable, StartTime: new(metav1.NewTime(noon)), Conditions: scheduled,
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Error(diff)
	}
}

// TestEndedWhileInitialising: a pod that was ended before its containers began has failed, and its conditions say what it lacked, as upstream.
func TestEndedWhileInitialising(t *testing.T) {
	s := compute(spec(corev1.RestartPolicyAlways, []string{"i"}, nil, "a"), observed(false, ran("i", 0, exitedState, 137)), terminated)
	if s.Phase != corev1.PodFailed || s.ContainerStatuses[0].State.Waiting == nil {
		t.Errorf("phase %s, containers %+v", s.Phase, s.ContainerStatuses)
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		if c := condition(s, kind); c.Reason != "ContainersNotReady" || c.Message != "containers with unready status: [a]" {
			t.Errorf("%+v", c)
		}
	}
}

// TestLongMessages: the apiserver takes no more than 12 KiB of last words a pod, and no half characters.
func TestLongMessages(t *testing.T) {
	o := observed(true, ran("a", 0, exitedState, 1))
	o.Containers[0].Message = strings.Repeat("é", 10<<10)
	s := compute(spec(corev1.RestartPolicyNever, nil, nil, "a", "b"), o)
	if m := s.ContainerStatuses[0].State.Terminated.Message; len(m) != 6<<10 || !utf8.ValidString(m) {
		t.Errorf("%d bytes, valid %v", len(m), utf8.ValidString(m))
	}
}

func TestConditions(t *testing.T) {
	pod := spec(corev1.RestartPolicyAlways, nil, nil, "a")
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "gate"}}
	up := observed(true, ran("a", 0, runningState, 0))
	earlier := metav1.NewTime(noon.Add(-time.Hour))
	foreign := corev1.PodCondition{Type: "gate", Status: corev1.ConditionFalse, LastTransitionTime: earlier}

	s := compute(pod, up)
	if c := condition(s, corev1.PodReady); c.Status != corev1.ConditionFalse || c.Reason != "ReadinessGatesNotReady" {
		t.Errorf("Ready without its gate: %+v", c)
	}
	s = compute(pod, up, func(in *Inputs) {
		in.Old = &corev1.PodStatus{Conditions: []corev1.PodCondition{foreign, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: earlier}}}
	})
	if c := condition(s, "gate"); c != foreign {
		t.Errorf("the gate's condition became %+v", c)
	}
	if c := condition(s, corev1.ContainersReady); !c.LastTransitionTime.Equal(&earlier) {
		t.Errorf("a condition that stayed has the transition time %v", c.LastTransitionTime)
	}
	foreign.Status = corev1.ConditionTrue
	s = compute(pod, up, func(in *Inputs) { in.Old = &corev1.PodStatus{Conditions: []corev1.PodCondition{foreign}} })
	if c := condition(s, corev1.PodReady); c.Status != corev1.ConditionTrue {
		t.Errorf("Ready with its gate: %+v", c)
	}
}

// TestSandboxNotReady: while a pod's containers cannot start its condition says why, in upstream's words.
func TestSandboxNotReady(t *testing.T) {
	pod, ended := spec(corev1.RestartPolicyAlways, nil, nil, "a"), observed(true)
	ended.Sandboxes[0].State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	for want, o := range map[string]*cri.PodStatus{
		"True  ": observed(true), "False PodSandboxNotReady no pod sandbox exists": observed(false), "False PodSandboxNotReady pod sandbox is not ready": ended,
	} {
		c := condition(compute(pod, o), corev1.PodReadyToStartContainers)
		if got := fmt.Sprint(c.Status, " ", c.Reason, " ", c.Message); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestManyAddresses: of each family the apiserver takes one address, and the node's family is the first.
func TestManyAddresses(t *testing.T) {
	pod, o := spec(corev1.RestartPolicyAlways, nil, nil, "a"), observed(true)
	o.IPs = []string{"10.0.0.5", "10.1.0.5", "fd00::5", "fd01::5"}
	for host, want := range map[string]string{"192.168.0.1": "10.0.0.5 fd00::5", "fd02::1": "fd00::5 10.0.0.5"} {
		s := compute(pod, o, func(in *Inputs) { in.HostIPs = []string{host} })
		var got []string
		for _, ip := range s.PodIPs {
			got = append(got, ip.IP)
		}
		if strings.Join(got, " ") != want || s.PodIP != got[0] {
			t.Errorf("beside %s: %s of %v, want %s", host, s.PodIP, got, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	pod := spec(corev1.RestartPolicyAlways, nil, nil, "a")
	o := observed(true)
	o.IPs = []string{"fd00::5", "10.0.0.5"}
	if s := compute(pod, o); s.PodIP != "10.0.0.5" || len(s.PodIPs) != 2 {
		t.Errorf("beside an IPv4 host: %q, %v", s.PodIP, s.PodIPs)
	}
	if s := compute(pod, o, func(in *Inputs) { in.HostIPs = []string{"fd01::1"} }); s.PodIP != "fd00::5" {
		t.Errorf("beside an IPv6 host: %q", s.PodIP)
	}
	pod.Spec.HostNetwork = true
	if s := compute(pod, observed(false)); s.PodIP != "192.168.0.1" {
		t.Errorf("on the host's network: %q", s.PodIP)
	}
}
