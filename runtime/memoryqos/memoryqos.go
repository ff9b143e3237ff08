// Package memoryqos says how the kernel treats the memory of containers on cgroup v2, beyond their limits.
package memoryqos

import (
	"os"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/runtime/cgroups"
)

// Settings are those of the node.
type Settings struct {
	// Factor is the part of what lies between request and limit that a container may use before the kernel slows it down; 0 for never.
	Factor float64
	// Tiered keeps the requests of guaranteed pods from being reclaimed, and those of burstable ones as long as possible.
	Tiered bool
	// Allocatable is the limit of containers without one, in bytes.
	Allocatable int64
}

// Unified are the files of a container's cgroup and what goes into them.
func (q Settings) Unified(class corev1.PodQOSClass, request, limit int64) map[string]string {
	out := map[string]string{"memory.min": "0", "memory.low": "0"}
	if request != 0 && q.Tiered {
		out = cgroups.MemoryReservation(class, request)
	}
	if request == limit {
		return out // guaranteed, or nothing to go by
	}
	if limit == 0 {
		limit = q.Allocatable
	}
	high := int64(float64(request)+float64(limit-request)*q.Factor) / pageSize * pageSize
	if limit > 0 && high > request {
		out["memory.high"] = strconv.FormatInt(high, 10)
	}
	return out
}

var pageSize = int64(os.Getpagesize())
