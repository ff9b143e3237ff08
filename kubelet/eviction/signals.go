package eviction

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/kubelet/settings"
)

// Signals, the resources whose shortage can be a reason to evict pods.
//
// Upstream: pkg/kubelet/eviction/api/types.go Signal.
const (
	signalMemory            = "memory.available"
	signalAllocatableMemory = "allocatableMemory.available" // of what the pods' cgroup may use
	signalNodeFs            = "nodefs.available"
	signalNodeFsInodes      = "nodefs.inodesFree"
	signalImageFs           = "imagefs.available"
	signalImageFsInodes     = "imagefs.inodesFree"
	signalContainerFs       = "containerfs.available"
	signalContainerFsInodes = "containerfs.inodesFree"
	signalPIDs              = "pid.available"
)

// Resources that are no API resource.
const (
	resourceInodes corev1.ResourceName = "inodes"
	resourcePIDs   corev1.ResourceName = "pids"
)

// meanings are the resource that a signal is of, and the condition of a node that is short of it.
var meanings = map[string]struct {
	resource  corev1.ResourceName
	condition corev1.NodeConditionType
}{
	signalMemory:            {corev1.ResourceMemory, corev1.NodeMemoryPressure},
	signalAllocatableMemory: {corev1.ResourceMemory, corev1.NodeMemoryPressure},
	signalNodeFs:            {corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure},
	signalNodeFsInodes:      {resourceInodes, corev1.NodeDiskPressure},
	signalImageFs:           {corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure},
	signalImageFsInodes:     {resourceInodes, corev1.NodeDiskPressure},
	signalContainerFs:       {corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure},
	signalContainerFsInodes: {resourceInodes, corev1.NodeDiskPressure},
	signalPIDs:              {resourcePIDs, corev1.NodePIDPressure},
}

// layout says which filesystems are separate. Where images have one, containers' writable layers are on it too unless
// they have their own.
//
// Upstream: pkg/kubelet/eviction/eviction_manager.go dedicatedImageFs, splitContainerImageFs.
type layout struct{ imageFs, containerFs bool }

// thresholdsFor completes the configured thresholds: what all pods may use gets the hard threshold of memory, and
// containerfs follows whichever filesystem containers are on.
func thresholdsFor(configured []settings.EvictionThreshold, l layout, enforcePods bool) []settings.EvictionThreshold {
	follows := map[string]string{signalNodeFs: signalContainerFs, signalNodeFsInodes: signalContainerFsInodes}
	if l.imageFs && !l.containerFs {
		follows = map[string]string{signalImageFs: signalContainerFs, signalImageFsInodes: signalContainerFsInodes}
	}
	var out []settings.EvictionThreshold
	for _, t := range configured {
		if t.Signal == signalContainerFs || t.Signal == signalContainerFsInodes {
			continue
		}
		out = append(out, t)
		if t.Signal == signalMemory && t.GracePeriod == 0 && enforcePods {
			t.Signal = signalAllocatableMemory
			out = append(out, t)
		}
		if other := follows[t.Signal]; other != "" {
			t.Signal = other
			out = append(out, t)
		}
	}
	return out
}

// observation is how much of a resource there is, and how much of it is free.
type observation struct{ available, capacity int64 }

// observations are those by signal; what could not be observed is missing.
type observations map[string]observation

// met returns the thresholds that are crossed, or, with minReclaim, those that are not cleared by their minimum reclaim.
func (o observations) met(thresholds []settings.EvictionThreshold, minReclaim bool) []settings.EvictionThreshold {
	var out []settings.EvictionThreshold
	for _, t := range thresholds {
		seen, ok := o[t.Signal]
		if !ok {
			continue
		}
		limit := t.Value.Of(seen.capacity)
		if minReclaim {
			limit += t.MinReclaim.Of(seen.capacity)
		}
		if seen.available < limit {
			out = append(out, t)
		}
	}
	return out
}

// tracker remembers since when thresholds are crossed and until when conditions hold.
type tracker struct {
	transition time.Duration // evictionPressureTransitionPeriod
	since      map[settings.EvictionThreshold]time.Time
	seen       map[corev1.NodeConditionType]time.Time // when the condition was last true
	acting     []settings.EvictionThreshold           // crossed for longer than their grace period, and not cleared since
}

// observe takes in what is observed now. It returns the thresholds to act on, memory's first, and the node's conditions.
func (t *tracker) observe(thresholds []settings.EvictionThreshold, o observations, now time.Time) ([]settings.EvictionThreshold, []corev1.NodeConditionType) {
	crossed := o.met(thresholds, false)
	for _, uncleared := range o.met(t.acting, true) {
		if !slices.Contains(crossed, uncleared) && slices.Contains(thresholds, uncleared) { // not one that was taken away
			crossed = append(crossed, uncleared)
		}
	}
	since := map[settings.EvictionThreshold]time.Time{}
	t.acting = nil
	for _, threshold := range crossed {
		at, before := t.since[threshold]
		if !before {
			at = now
		}
		since[threshold] = at
		t.seen[meanings[threshold.Signal].condition] = now
		if now.Sub(at) >= threshold.GracePeriod {
			t.acting = append(t.acting, threshold)
		}
	}
	t.since = since
	slices.SortStableFunc(t.acting, func(a, b settings.EvictionThreshold) int { return urgency(a) - urgency(b) })
	return t.acting, t.conditions(now)
}

// urgency puts memory first: a machine without any is lost sooner.
func urgency(t settings.EvictionThreshold) int {
	if meanings[t.Signal].resource == corev1.ResourceMemory {
		return 0
	}
	return 1
}

// conditions are those seen within the transition period, in a fixed order.
func (t *tracker) conditions(now time.Time) []corev1.NodeConditionType {
	var out []corev1.NodeConditionType
	for _, kind := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		if at, ok := t.seen[kind]; ok && (at.Equal(now) || now.Sub(at) < t.transition) {
			out = append(out, kind)
		}
	}
	return out
}
