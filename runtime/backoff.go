package runtime

import (
	"cmp"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/runtime/cri"
	"minikubelet/runtime/spec"
)

const (
	crashLoopBase  = 10 * time.Second
	crashLoopMax   = 5 * time.Minute
	crashLoopReset = 10 * time.Minute // a run this long ends a crash loop
)

// crashLoops says how long a container that keeps ending has to wait. The wait follows from the attempt and the time of the end,
// which the runtime remembers. Only from which attempt on to count is kept here; after a restart of the kubelet that is the first.
type crashLoops struct {
	longest time.Duration
	mu      sync.Mutex
	floors  map[types.UID]map[string]crashFloor // pod -> container name
}

type crashFloor struct {
	attempt     uint32
	fingerprint string // of what makes counting start anew when it changes
	end         string // the container whose end was last asked about
	ended       time.Time
}

// SetCrashLoopMax changes the longest back-off of a crashing container, for the next question; 0 is the default.
func (r *Runtime) SetCrashLoopMax(longest time.Duration) {
	r.crash.mu.Lock()
	defer r.crash.mu.Unlock()
	r.crash.longest = cmp.Or(longest, crashLoopMax)
}

func newCrashLoops(longest time.Duration) *crashLoops {
	return &crashLoops{longest: longest, floors: map[types.UID]map[string]crashFloor{}}
}

// crashDelay is the wait after the n-th end in a row: none, 10 s, 20 s, 40 s ... up to longest.
func crashDelay(n uint32, longest time.Duration) time.Duration {
	if n == 0 {
		return 0
	}
	if n > 32 {
		return longest
	}
	return min(crashLoopBase<<(n-1), longest)
}

// wait returns the back-off that applies to starting the container again after last, and when it ends. It counts from
// the container's end, but at the latest from when that was first seen: a clock that was set back puts ends far ahead, and a
// runtime may not say when it was. From
// then on it goes by at, which is from time.Now, and so by the clock that is never set.
func (c *crashLoops) wait(pod *corev1.Pod, container *corev1.Container, last *cri.ContainerStatus, at time.Time) (time.Duration, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	floors := c.floors[pod.UID]
	if floors == nil {
		floors = map[string]crashFloor{}
		c.floors[pod.UID] = floors
	}
	now := crashFloor{fingerprint: spec.Hash(container) + "/" + container.Resources.String()}
	floor, known := floors[container.Name]
	now.end, now.ended = floor.end, floor.ended
	if last == nil {
		floors[container.Name] = now
		return 0, time.Time{}
	}
	longRun := !last.StartedAt.IsZero() && last.FinishedAt.Sub(last.StartedAt) > crashLoopReset
	changed := (known && floor.fingerprint != now.fingerprint) || (last.Hash != "" && last.Hash != spec.Hash(container))
	switch {
	case longRun || changed:
		now.attempt = last.Attempt
		floor = now
	case !known:
		floor = now
	}
	if floor.end != last.ID || floor.ended.IsZero() {
		floor.end, floor.ended = last.ID, at
		if !last.FinishedAt.IsZero() {
			floor.ended = at.Add(-max(0, at.Sub(last.FinishedAt)))
		}
	}
	floors[container.Name] = floor
	delay := crashDelay(last.Attempt-min(floor.attempt, last.Attempt), c.longest)
	return delay, floor.ended.Add(delay)
}

// begin makes counting start at the first instance of a container that the runtime has no record of: after a reboot its number
// comes from the logs and is no sign of a crash loop.
func (c *crashLoops) begin(uid types.UID, container *corev1.Container, attempt uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if floors := c.floors[uid]; floors != nil {
		floor := floors[container.Name]
		floor.attempt = attempt
		floors[container.Name] = floor
	}
}

func (c *crashLoops) forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.floors, uid)
}
