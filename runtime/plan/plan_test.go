package plan

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/config/pod/podtest"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/spec"
)

// verdicts are the probes' answers by container ID: "L" and "S" for a failed liveness or startup probe, "w" for a
// startup probe still under way. "*" is any other container.
type verdicts map[string]string

func (v verdicts) of(observed *cri.PodStatus) map[string]Verdict {
	out := map[string]Verdict{}
	for _, c := range observed.Containers {
		answer, ok := v[c.ID]
		if !ok {
			answer = v["*"]
		}
		out[c.ID] = Verdict{
			Restart: map[string]string{"L": RestartLiveness, "S": RestartStartup}[answer],
			Started: answer == "" || answer == "L",
		}
	}
	return out
}

// observe makes a reading from a line such as "box0 main:run other:exit1/2": sandboxes (box0- is one that is not
// ready), then containers, newest first, with their state and, after a slash, their attempt. "@0" at the end puts a
// container into another sandbox than the newest. IDs are name.attempt.
func observe(line string) *cri.PodStatus {
	out := &cri.PodStatus{UID: "uid-1", Namespace: "ns", Name: "pod"}
	for word := range strings.FieldsSeq(line) {
		if number, ok := strings.CutPrefix(word, "box"); ok {
			box := &runtimeapi.PodSandboxStatus{
				Metadata: &runtimeapi.PodSandboxMetadata{Attempt: uint32(number[0] - '0')}, Id: "box" + number[:1],
				Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.1"},
			}
			switch number[1:] {
			case "-":
				box.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
			case "!":
				box.Network.Ip = ""
			case "h":
				box.Linux = &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{
					Options: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}}}
			}
			out.Sandboxes = append(out.Sandboxes, box)
			continue
		}
		word, box, elsewhere := strings.Cut(word, "@")
		name, state, _ := strings.Cut(word, ":")
		state, attempt, _ := strings.Cut(state, "/")
		c := &cri.ContainerStatus{Name: name, SandboxID: "box" + box, Hash: spec.Hash(&corev1.Container{Name: name, Image: "image:1"})}
		if !elsewhere {
			c.SandboxID = out.Sandboxes[0].Id
		}
		_, _ = fmt.Sscan(attempt, &c.Attempt)
		c.ID = fmt.Sprintf("%s.%d", name, c.Attempt)
		switch state {
		case "run":
			c.State = cri.Running
		case "new":
			c.State = cri.Created
		case "changed":
			c.State, c.Hash = cri.Running, "f00"
		case "unknown":
			c.State = runtimeapi.ContainerState_CONTAINER_UNKNOWN
		case "oom":
			c.State, c.Reason = cri.Exited, "OOMKilled"
		default:
			c.State = cri.Exited
			_, _ = fmt.Sscanf(state, "exit%d", &c.ExitCode)
		}
		out.Containers = append(out.Containers, c)
	}
	return out
}

// write writes actions as a line, in the order they are carried out.
func write(a Actions) string {
	var out []string
	if a.KillPod != "" {
		out = append(out, "killpod")
	}
	for _, k := range a.Kill {
		out = append(out, "kill "+k.ID)
	}
	for _, r := range a.Remove {
		out = append(out, "remove "+r.ID)
	}
	if a.CreateSandbox != "" {
		out = append(out, fmt.Sprintf("sandbox %d", a.Attempt))
	}
	for _, s := range a.Start {
		out = append(out, fmt.Sprintf("start %s/%d", s.Container.Name, s.Attempt))
	}
	return strings.Join(out, ", ")
}

func TestComputePodActions(t *testing.T) {
	always, onFailure, never := corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	for _, tc := range []struct {
		name     string
		pod      string
		policy   corev1.RestartPolicy
		observed string
		verdicts verdicts
		want     string
	}{
		// Sandboxes.
		{"new pod", "c:a c:b", always, "", nil, "sandbox 0, start a/0, start b/0"},
		{"new pod with init containers", "i:i s:s c:a", always, "", nil, "sandbox 0, start i/0"},
		{"new pod with sidecar first", "s:s i:i c:a", always, "", nil, "sandbox 0, start s/0"},
		{"all well", "c:a c:b", always, "box0 a:run b:run", nil, ""},
		{"sandbox died", "c:a", always, "box0- a:exit137", nil, "killpod, sandbox 1, start a/1"},
		{"sandbox died, container runs on", "c:a", always, "box0- a:run", nil, "killpod, sandbox 1, start a/1"},
		{"sandbox lost, container runs on", "c:a", always, "a:run@0", nil, "killpod, sandbox 0, start a/1"},
		{"sandbox lost, container in an unknown state", "c:a", never, "a:unknown@0", nil, "killpod"},
		{"sandbox lost, container ended", "c:a", always, "a:exit1@0 ended", nil, "sandbox 0, start a/1"},
		{"sandbox died before any container", "c:a", never, "box0-", nil, "killpod, sandbox 1, start a/0"},
		{"sandbox died, init containers again", "i:i c:a", always, "box0- a:exit137 i:exit0", nil, "killpod, remove i.0, sandbox 1, start i/1"},
		{"init containers of an earlier sandbox count for nothing", "i:i c:a", always, "box1 box0- a:exit137@0 i:exit0@0", nil, "start i/1"},
		{"sandbox died, policy Never", "c:a", never, "box0- a:exit0", nil, "killpod"},
		{"sandbox died, policy Never, and was stopped", "c:a", never, "box0- a:exit0 ended", nil, ""},
		{"sandbox died, policy Never, container runs on", "c:a", never, "box0- a:run", nil, "killpod"},
		{"sandbox died, policy Never, only initialised", "i:i c:a", never, "box0- i:exit0", nil, "killpod, remove i.0, sandbox 1, start i/1"},
		{"sandbox died, policy Never, was initialised", "i:i c:a", never, "box0- i:run", nil, "killpod"},
		{"sandbox died, policy Never, not initialised", "i:i c:a", never, "box0- i:exit1 ended", nil, ""},
		{"sandbox died, policy Never, out of memory with code 0", "i:i c:a", never, "box0- i:oom ended", nil, ""},
		{"sandbox died, OnFailure, out of memory with code 0", "i:i c:a", onFailure, "box0- i:oom", nil, "killpod, remove i.0, sandbox 1, start i/1"},
		{"sandbox died, policy Never, sidecar ran", "s:s c:a", never, "box0- s:exit137", nil, "killpod, remove s.0, sandbox 1, start s/1"},
		{"sandbox died, policy Never, created", "c:a", never, "box0- a:new", nil, "killpod, remove a.0, sandbox 1, start a/0"},
		{"sandbox died, policy Never, one has not run", "c:a c:b", never, "box0- a:exit0", nil, "killpod, sandbox 1, start b/0"},
		{"sandbox died, policy Never, one has its own", "c:a c:b=Always", never, "box0- a:exit0 b:exit137", nil, "killpod, sandbox 1, start b/1"},
		{"sandbox died, one has policy Never", "c:a=Never c:b", always, "box0- a:exit1 b:exit1", nil, "killpod, sandbox 1, start b/1"},
		{"sandbox died, OnFailure, done", "c:a c:b", onFailure, "box0- a:exit0 b:exit0", nil, "killpod"},
		{"sandbox died, OnFailure, done, and was stopped", "c:a c:b", onFailure, "box0- a:exit0 b:exit0 ended", nil, ""},
		{"sandbox died, OnFailure, one to do", "c:a c:b", onFailure, "box0- a:exit0 b:exit1", nil, "killpod, sandbox 1, start b/1"},
		{"two ready sandboxes", "c:a", always, "box1 box0 a:run", nil, "killpod, sandbox 2, start a/1"},
		{"no IP address", "c:a", always, "box0! a:run", nil, "killpod, sandbox 1, start a/1"},
		{"network namespace changed", "c:a", always, "box0h a:run", nil, "killpod, sandbox 1, start a/1"},

		// Regular containers and restart policies.
		{"one not started", "c:a c:b", always, "box0 a:run", nil, "start b/0"},
		{"exit 0, Always", "c:a c:b", always, "box0 b:run a:exit0/3", nil, "start a/4"},
		{"exit 0, OnFailure", "c:a c:b", onFailure, "box0 b:run a:exit0", nil, ""},
		{"exit 1, OnFailure", "c:a c:b", onFailure, "box0 b:run a:exit1", nil, "start a/1"},
		{"exit 1, Never", "c:a c:b", never, "box0 b:run a:exit1", nil, ""},
		{"all done, OnFailure", "c:a c:b", onFailure, "box0 b:exit0 a:exit0", nil, "killpod"},
		{"all done, Never", "c:a c:b", never, "box0 b:exit1 a:exit0", nil, "killpod"},
		{"all exited, Always", "c:a", always, "box0 a:exit0", nil, "start a/1"},
		{"the newest attempt counts", "c:a", always, "box0 a:run/2 a:exit1/1", nil, ""},
		{"created, never started", "c:a c:b", never, "box0 b:run a:new", nil, "remove a.0, start a/0"},
		{"created anew, never started", "c:a", always, "box0 a:new/5 a:exit1/4", nil, "remove a.5, start a/5"},
		{"created and superseded", "c:a", always, "box0 a:run/1 a:new/0", nil, "remove a.0"},
		{"unknown", "c:a c:b", always, "box0 b:run a:unknown", nil, "kill a.0, start a/1"},
		{"an earlier one is unknown", "c:a", always, "box0 a:run/1 a:unknown/0", nil, "kill a.0"},
		{"an ephemeral one is unknown", "c:a e:e", always, "box0 a:run e:unknown", nil, "kill e.0"},
		{"an init container that is behind is unknown", "i:i c:a", always, "box0 a:run i:unknown", nil, "kill i.0"},
		{"runs twice", "c:a", always, "box0 a:run/1 a:run/0", nil, "kill a.0"},
		{"definition changed", "c:a c:b", always, "box0 a:changed b:run", nil, "kill a.0, start a/1"},
		{"definition changed, Never", "c:a", never, "box0 a:changed", nil, "kill a.0, start a/1"},
		{"liveness failed", "c:a c:b", always, "box0 a:run b:run", verdicts{"a.0": "L"}, "kill a.0, start a/1"},
		{"startup failed", "c:a c:b", onFailure, "box0 a:run b:run", verdicts{"a.0": "S"}, "kill a.0, start a/1"},
		{"liveness failed, Never", "c:a c:b", never, "box0 a:run b:run", verdicts{"a.0": "L"}, "kill a.0"},
		{"liveness failed, Never, the only one", "c:a", never, "box0 a:run", verdicts{"a.0": "L"}, "killpod"},

		// Init containers, in order.
		{"none has run", "i:i i:j c:a", always, "box0", nil, "start i/0"},
		{"first runs", "i:i i:j c:a", always, "box0 i:run", nil, ""},
		{"first done", "i:i i:j c:a", always, "box0 i:exit0", nil, "start j/0"},
		{"second done, record of the first gone", "i:i i:j c:a", always, "box0 j:exit0", nil, "start a/0"},
		{"all done", "i:i i:j c:a c:b", always, "box0 j:exit0 i:exit0", nil, "start a/0, start b/0"},
		{"failed, Always", "i:i i:j c:a", always, "box0 i:exit1/2", nil, "start i/3"},
		{"failed, OnFailure", "i:i c:a", onFailure, "box0 i:exit1", nil, "start i/1"},
		{"failed, Never", "i:i i:j c:a", never, "box0 i:exit1", nil, "killpod"},
		{"out of memory with code 0", "i:i c:a", always, "box0 i:oom", nil, "start i/1"},
		{"out of memory with code 0, OnFailure", "i:i c:a", onFailure, "box0 i:oom", nil, "start i/1"},
		{"out of memory with code 0, Never", "i:i c:a", never, "box0 i:oom", nil, "killpod"},
		{"created, never started", "i:i c:a", always, "box0 i:new", nil, "remove i.0, start i/0"},
		{"unknown, Always", "i:i c:a", always, "box0 i:unknown", nil, "kill i.0, start i/1"},
		{"unknown, Never", "i:i c:a", never, "box0 i:unknown", nil, "killpod"},
		{"initialised, records gone", "i:i c:a", always, "box0 a:exit1", nil, "start a/1"},
		{"initialised, a failed record is history", "i:i c:a", never, "box0 a:run i:exit1", nil, ""},

		// Sidecars.
		{"sidecar starting", "s:s i:i c:a", always, "box0 s:run", verdicts{"s.0": "w"}, ""},
		{"sidecar started", "s:s i:i c:a", always, "box0 s:run", nil, "start i/0"},
		{"last sidecar started", "i:i s:s c:a", always, "box0 s:run i:exit0", nil, "start a/0"},
		{"sidecar's startup failed", "s:s i:i c:a", always, "box0 s:run", verdicts{"s.0": "S"}, "kill s.0, start s/1"},
		{"sidecar's liveness failed on the way", "s:s i:i c:a", always, "box0 s:run", verdicts{"s.0": "L"}, "kill s.0, start s/1, start i/0"},
		{"sidecar ended on the way", "s:s i:i c:a", always, "box0 i:run s:exit1", nil, "start s/1"},
		{"sidecar ended at its turn", "s:s i:i c:a", never, "box0 s:exit1", nil, "start s/1"},
		{"earlier sidecar restarting holds nothing up", "s:s i:i c:a", always, "box0 i:exit0 s:exit1", nil, "start s/1, start a/0"},
		{"sidecar ended later", "s:s c:a", always, "box0 a:run s:exit0", nil, "start s/1"},
		{"sidecar's record gone", "s:s c:a", always, "box0 a:run", nil, "start s/0"},
		{"sidecar changed", "s:s c:a", always, "box0 a:run s:changed", nil, "kill s.0, start s/1"},
		{"sidecar's liveness failed", "s:s c:a", always, "box0 a:run s:run", verdicts{"s.0": "L"}, "kill s.0, start s/1"},
		{"sidecar created, never started", "s:s c:a", always, "box0 a:run s:new", nil, "remove s.0, start s/0"},
		{"sidecar unknown", "s:s c:a", always, "box0 a:run s:unknown", nil, "kill s.0, start s/1"},
		{"sidecars do not keep a pod", "s:s c:a", never, "box0 a:exit0 s:run", nil, "killpod"},
		{"nor are they restarted in the end", "s:s c:a", onFailure, "box0 a:exit0 s:exit1", nil, "killpod"},

		// Ephemeral containers.
		{"ephemeral beside running", "c:a e:e", always, "box0 a:run", nil, "start e/0"},
		{"ephemeral while initialising", "i:i c:a e:e", always, "box0 i:run", nil, "start e/0"},
		{"ephemeral is not restarted", "c:a e:e", always, "box0 a:run e:exit1", nil, ""},
		{"ephemeral created, never started", "c:a e:e", always, "box0 a:run e:new", nil, "remove e.0, start e/0"},
		{"ephemeral does not keep a pod", "c:a e:e", never, "box0 a:exit0 e:run", nil, "killpod"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			line, ended := strings.CutSuffix(tc.observed, " ended")
			observed := observe(line)
			actions := ComputePodActions(Input{Pod: podtest.Pod(tc.pod, tc.policy), Observed: observed, Verdicts: tc.verdicts.of(observed), Ended: ended})
			if got := write(actions); got != tc.want {
				t.Errorf("plan %q\nwant %q", got, tc.want)
			}
			checkReasons(t, actions)
		})
	}
}

// checkReasons wants a reason for everything.
func checkReasons(t *testing.T, a Actions) {
	t.Helper()
	for _, k := range a.Kill {
		if k.Message == "" || k.Reason == "" {
			t.Errorf("no reason to kill %s", k.ID)
		}
	}
	for _, r := range a.Remove {
		if r.Reason == "" {
			t.Errorf("no reason to remove %s", r.ID)
		}
	}
	for _, s := range a.Start {
		if s.Reason == "" {
			t.Errorf("no reason to start %s", s.Container.Name)
		}
	}
}

func TestComputePodActionsIsPure(t *testing.T) {
	pod, observed := podtest.Pod("i:i s:s c:a e:e", corev1.RestartPolicyAlways), observe("box1 box0 a:new i:exit1 s:run")
	podBefore, first := pod.DeepCopy(), write(ComputePodActions(Input{Pod: pod, Observed: observed}))
	second := write(ComputePodActions(Input{Pod: pod, Observed: observed}))
	if first != second || cmp.Diff(podBefore, pod) != "" || len(observed.Containers) != 3 {
		t.Errorf("%q then %q", first, second)
	}
	if got := write(ComputePodActions(Input{Pod: pod})); got != "sandbox 0, start i/0" {
		t.Errorf("without a reading: %q", got)
	}
}
