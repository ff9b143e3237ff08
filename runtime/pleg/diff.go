package pleg

import (
	"maps"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
)

// changed reports whether a pod's worker has to look at the pod after a reading took the place of another. Either may be
// nil, for nothing. What only this kubelet does is no change, since the worker that did it has the answer: a sandbox that
// was started, a container that was created, the removal of what had ended.
//
// Upstream: pkg/kubelet/pleg/generic.go computeEvents
func changed(old, now *cri.PodStatus) bool {
	before, after := states(old), states(now)
	for id, state := range before {
		if state != exited && after[id] == gone {
			return true
		}
	}
	for id, state := range after {
		if state != quiet && state != before[id] {
			return true
		}
	}
	return old.ReadySandbox() != nil && now.ReadySandbox() != nil && !slices.Equal(old.IPs, now.IPs)
}

type state int

const (
	gone state = iota
	quiet
	running
	exited
	unknown
)

// states returns the states of a pod's containers and sandboxes by ID.
func states(pod *cri.PodStatus) map[string]state {
	out := map[string]state{}
	if pod == nil {
		return out
	}
	for _, c := range pod.Containers {
		out[c.ID] = [...]state{cri.Created: quiet, cri.Running: running, cri.Exited: exited, cri.Unknown: unknown}[c.State]
	}
	for _, b := range pod.Sandboxes {
		out[b.Id] = exited
		if b.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			out[b.Id] = quiet
		}
	}
	return out
}

// same reports that two readings have the same containers and sandboxes in the same states.
func same(a, b *cri.PodStatus) bool { return maps.Equal(states(a), states(b)) }

// source is where a reading comes from.
type source int

const (
	fromList  source = iota // it has all of the pod
	fromPart                // it has some of the pod, as the runtime just answered
	fromEvent               // it has some of the pod, as it was some time before the runtime says
)

// join brings what is known of a pod's sandboxes, or of its containers, up to date with a reading. Of each, the later state
// counts, and of equal states that of the newer reading. One that the reading lacks is gone if the reading has all of the
// pod and began after it was last seen. One that is not known is new, unless it was removed, or a reading of all of the pod
// that began later did not have it.
func join[T any](c *Cache, e *entry, r *cri.PodStatus, from source, known, read []T, id func(T) string, age func(T) int) []T {
	var out []T
	seen := r.ObservedAt
	if from == fromEvent {
		seen = time.Now() // if it was removed meanwhile, another event says so
	}
	late := from != fromPart && (r.ObservedAt.Before(e.read) || r.ObservedAt.Before(c.listed))
	for _, k := range known {
		i := slices.IndexFunc(read, func(n T) bool { return id(n) == id(k) })
		switch last := e.seen[id(k)]; {
		case !c.removed[id(k)].IsZero() || i < 0 && from == fromList && !last.After(r.ObservedAt):
			c.removed[id(k)] = time.Now()
			delete(e.seen, id(k))
			continue
		case i >= 0 && (age(read[i]) > age(k) || age(read[i]) == age(k) && !last.After(seen)):
			k = read[i]
		}
		if i >= 0 && seen.After(e.seen[id(k)]) {
			e.seen[id(k)] = seen
		}
		out = append(out, k)
	}
	for _, n := range read {
		isKnown := slices.ContainsFunc(known, func(k T) bool { return id(n) == id(k) })
		if !isKnown && !late && c.removed[id(n)].IsZero() {
			e.seen[id(n)] = seen
			out = append(out, n)
		}
	}
	return out
}

// containerAge orders the states that a container goes through, and sandboxAge those of a sandbox.
func containerAge(c *cri.ContainerStatus) int {
	switch c.State {
	case cri.Created:
		return 0
	case cri.Exited:
		return 2
	}
	return 1
}

func sandboxAge(b *runtimeapi.PodSandboxStatus) int { return int(b.State) } // READY is 0, NOTREADY 1
