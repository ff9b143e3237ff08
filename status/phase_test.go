package status

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/runtime/cri"
)

// phases has the phase of every combination of two containers' states: W waits for its first run, R runs, 0 ended well,
// 1 ended badly. The columns are the restart policies Always, OnFailure and Never, then a pod that was ended (which has
// nothing that runs): P pending, R running, S succeeded, F failed.
const phases = `
WW P P P F
WR P P P -
W0 P P P F
W1 P P P F
RR R R R -
R0 R R R -
R1 R R R -
00 R S S S
01 R R F F
11 R R F F
`

// initPhases is the same for a pod whose regular containers wait for an init container, and a sidecar before that.
const initPhases = `
-W P P P F
-R P P P -
-1 P P F F
RW P P P F
RR P P P -
R1 P P F F
WW P P P F
`

var letters = map[string]corev1.PodPhase{"P": corev1.PodPending, "R": corev1.PodRunning, "S": corev1.PodSucceeded, "F": corev1.PodFailed}

// put adds a container in a state.
func put(all []*cri.ContainerStatus, name string, state byte) []*cri.ContainerStatus {
	switch state {
	case 'R':
		return append(all, ran(name, 0, runningState, 0))
	case '0', '1':
		return append(all, ran(name, 0, exitedState, int32(state-'0')))
	}
	return all
}

// eachPhase calls check with every cell of a table.
func eachPhase(table string, check func(states string, policy corev1.RestartPolicy, change func(*Inputs), want corev1.PodPhase)) {
	for line := range strings.Lines(strings.TrimSpace(table)) {
		cells := strings.Fields(line)
		for i, policy := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever} {
			check(cells[0], policy, func(*Inputs) {}, letters[cells[1+i]])
			if cells[4] == "-" {
				continue
			}
			check(cells[0], policy, terminated, letters[cells[4]])
		}
	}
}

// TestPhases: the phase of every combination, whatever order the containers are in, and with what is done before them.
func TestPhases(t *testing.T) {
	seen := 0
	eachPhase(phases, func(states string, policy corev1.RestartPolicy, change func(*Inputs), want corev1.PodPhase) {
		for _, order := range []string{states, string([]byte{states[1], states[0]})} {
			for _, before := range []string{"", "init", "sidecar"} {
				seen++
				var inits, sidecars []string
				var all []*cri.ContainerStatus
				switch before {
				case "init":
					inits, all = []string{"i"}, put(nil, "i", '0')
				case "sidecar":
					sidecars, all = []string{"s"}, put(nil, "s", 'R')
				}
				all = put(put(all, "a", order[0]), "b", order[1])
				if got := compute(spec(policy, inits, sidecars, "a", "b"), observed(true, all...), change).Phase; got != want {
					t.Errorf("%s, %s, before them %q: %s, want %s", order, policy, before, got, want)
				}
			}
		}
	})
	eachPhase(initPhases, func(states string, policy corev1.RestartPolicy, change func(*Inputs), want corev1.PodPhase) {
		seen++
		var sidecars []string
		if states[0] != '-' {
			sidecars = []string{"s"}
		}
		all := put(put(nil, "s", states[0]), "i", states[1])
		if got := compute(spec(policy, []string{"i"}, sidecars, "a"), observed(true, all...), change).Phase; got != want {
			t.Errorf("sidecar %c, init %c, %s: %s, want %s", states[0], states[1], policy, got, want)
		}
	})
	if seen != (10*3+6*3)*6+7*3+5*3 {
		t.Errorf("%d combinations", seen)
	}
}
