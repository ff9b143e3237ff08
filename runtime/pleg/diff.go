package pleg

import (
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
	for _, b := range before {
		if b.state != exited && after.of(b.id) == gone {
			return true
		}
	}
	for _, a := range after {
		if a.state != quiet && a.state != before.of(a.id) {
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

type object struct {
	id    string
	state state
}

type objects []object

func (o objects) of(id string) state {
	for _, each := range o {
		if each.id == id {
			return each.state
		}
	}
	return gone
}

func states(pod *cri.PodStatus) objects {
	if pod == nil {
		return nil
	}
	out := make(objects, 0, len(pod.Containers)+len(pod.Sandboxes))
	for _, c := range pod.Containers {
		s := unknown
		switch c.State {
		case runtimeapi.ContainerState_CONTAINER_CREATED:
			s = quiet
		case runtimeapi.ContainerState_CONTAINER_RUNNING:
			s = running
		case runtimeapi.ContainerState_CONTAINER_EXITED:
			s = exited
		}
		out = append(out, object{c.ID, s})
	}
	for _, b := range pod.Sandboxes {
		s := exited
		if b.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			s = quiet
		}
		out = append(out, object{b.Id, s})
	}
	return out
}

// same reports that two readings have the same objects in the same states.
func same(a, b *cri.PodStatus) bool {
	as, bs := states(a), states(b)
	if len(as) != len(bs) {
		return false
	}
	for _, each := range as {
		if bs.of(each.id) != each.state {
			return false
		}
	}
	return true
}

// merge brings a reading up to date with the payload of an event: one sandbox, and its containers. The runtime gathers
// the payload while other things happen, so it may be late: a state never goes back, and what the payload lacks is
// still there until an event says that it was removed. deleted reports IDs of which one did. Of a payload that is older
// than the reading counts only how far what the reading has went on: a reading is as old as its oldest part at least, and
// some of it may have been taken over from before.
// It returns nil if the payload tells nothing new.
func merge(old, payload *cri.PodStatus, deleted func(id string) bool) *cri.PodStatus {
	if old != nil && payload.ObservedAt.Before(old.ObservedAt) {
		return advance(old, payload)
	}
	at := payload.ObservedAt
	out := add(old, payload, at)
	for _, b := range out.Sandboxes {
		if deleted(b.Id) {
			out = out.WithoutSandbox(b.Id, at)
		}
	}
	for _, c := range out.Containers {
		if deleted(c.ID) {
			out = out.WithoutContainer(c.ID, at)
		}
	}
	if old == nil && out.Gone() {
		return nil // the last events of a pod that was forgotten already
	}
	return out
}

// add takes over what a payload has, unless the reading has it in a later state.
func add(old, payload *cri.PodStatus, at time.Time) *cri.PodStatus {
	out := &cri.PodStatus{UID: payload.UID, Namespace: payload.Namespace, Name: payload.Name}
	if old != nil {
		out = old.At(at)
	}
	if out.Name == "" { // the reading before had nothing of the pod, and so not its name
		out.Namespace, out.Name = payload.Namespace, payload.Name
	}
	for _, b := range payload.Sandboxes {
		if known := old.Sandbox(b.Id); known == nil || known.State <= b.State { // READY is 0, NOTREADY 1
			out = out.WithSandbox(b, at)
		}
	}
	for _, c := range payload.Containers {
		if known := old.ContainerByID(c.ID); known == nil || age(known.State) <= age(c.State) {
			out = out.WithContainer(c, at)
		}
	}
	return out
}

// advance takes over the states of a payload that are later than those of the reading. It returns nil if none is.
func advance(old, payload *cri.PodStatus) *cri.PodStatus {
	out := old
	for _, b := range payload.Sandboxes {
		if known := old.Sandbox(b.Id); known != nil && known.State < b.State {
			out = out.WithSandbox(b, old.ObservedAt)
		}
	}
	for _, c := range payload.Containers {
		if known := old.ContainerByID(c.ID); known != nil && age(known.State) < age(c.State) {
			out = out.WithContainer(c, old.ObservedAt)
		}
	}
	if out == old {
		return nil
	}
	return out
}

// age orders the states a container goes through.
func age(s runtimeapi.ContainerState) int {
	switch s {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return 0
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return 2
	}
	return 1
}
