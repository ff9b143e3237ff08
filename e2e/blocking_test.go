package e2e

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"minikubelet/e2e/internal/blocking"
)

// loopTurn is what one turn of the sync loop does.
const loopTurn = "(*minikubelet/syncloop.Loop).syncLoopIteration"

// loopParts are the functions behind the fields and interfaces through which the loop, or who has one of its locks, calls others.
var loopParts = map[string][]string{
	"(minikubelet/podworkers.NodeFacts).Allocatable":  {"(*minikubelet/kubelet/node.Node).Allocatable"},
	"(minikubelet/podworkers.NodeFacts).Node":         {"(*minikubelet/kubelet/node.Node).Node"},
	"(*minikubelet/runtime/pleg.Cache).retain's tell": {"(*minikubelet/runtime/pleg.PLEG).tell"},
	"minikubelet/status.Manager.onChange":             {"(*minikubelet/kubelet/local.Local).Changed"},
	"minikubelet/syncloop.Options.Allocatable":        {"(*minikubelet/kubelet/devices.Manager).Allocatable"},
	"minikubelet/syncloop.Options.CheckSysctls":       {"minikubelet/runtime/spec.CheckSysctls"},
	"minikubelet/syncloop.Options.Infeasible":         {"(*minikubelet/runtime.Runtime).Infeasible"},
	"minikubelet/syncloop.Options.Pressure":           {"(*minikubelet/kubelet/eviction.Manager).Pressure"},
	"minikubelet/syncloop.Options.ShuttingDown":       {"(*minikubelet/kubelet/shutdown.Manager).ShuttingDown"},
	// Parameters, which get literals that compare and change what they are given.
	"(minikubelet/runtime/allocation.Resources).Apply's list": nil,
	"(*minikubelet/runtime/allocation.Store).change's edit":   nil,
	"minikubelet/runtime/pleg.join's age":                     nil,
	"minikubelet/runtime/pleg.join's id":                      nil,
	"(*minikubelet/status.Manager).edit's change":             nil,
}

// TestLoopDoesNotBlock: a turn of the sync loop waits for nothing but its next event, and while others hold a lock that it takes they
// wait for nothing. What it calls through a new field or interface belongs into loopParts.
func TestLoopDoesNotBlock(t *testing.T) {
	program, err := blocking.Load("..", "./syncloop", "./config", "./podworkers/...", "./status/...", "./runtime/...", "./kubelet/...")
	if err != nil {
		t.Fatal(err)
	}
	found := program.Check(loopTurn, loopParts)
	events := 0
	for _, what := range slices.Sorted(maps.Keys(found)) {
		if strings.HasPrefix(what, loopTurn+": select of ") {
			events++
			continue
		}
		t.Errorf("%s\n\t%s", what, strings.Join(found[what], "\n\t"))
	}
	if events != 1 {
		t.Errorf("the loop waits for its events in %d places", events)
	}
}
