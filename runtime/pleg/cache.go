package pleg

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
)

// Cache is the one holder of what the runtime says of pods. The PLEG puts readings into it, from events and from lists;
// Current adds one when a caller needs to know what became of its last call to the runtime.
//
// Readings overlap and come late: a runtime sends an event with what it had read some time before. But a sandbox or
// container only goes on, from its creation to its end and its removal, and its ID does not return. So in whatever order
// readings come, the latest state of each is the right one, and none goes back.
//
// Upstream: pkg/kubelet/container/cache.go
type Cache struct {
	client *cri.Client

	mu      sync.Mutex
	pods    map[types.UID]*entry
	removed map[string]time.Time // when sandboxes and containers were found to be gone, by ID, as long as late readings may have them
	listed  time.Time            // when the last list of all pods began: what is not in pods, the runtime did not have then
}

// entry is what is known of one pod.
type entry struct {
	pod   *cri.PodStatus       // nil if only acted is known
	seen  map[string]time.Time // when each sandbox and container was last found to be there, by ID
	read  time.Time            // when the last reading of all of the pod began
	acted time.Time            // when the pod was last acted upon, if no reading of all of it began after that
}

// rememberRemoved is how long after a removal a reading that has what was removed may come.
const rememberRemoved = 2 * time.Minute

// NewCache returns an empty cache that asks client for what it does not know.
func NewCache(client *cri.Client) *Cache {
	return &Cache{client: client, pods: map[types.UID]*entry{}, removed: map[string]time.Time{}}
}

// Get returns the newest reading of a pod, which may be older than what was last done to the pod.
func (c *Cache) Get(uid types.UID) (*cri.PodStatus, bool) {
	pod, _ := c.IfCurrent(uid)
	return pod, pod != nil
}

// IfCurrent returns the newest reading of a pod, and whether it counts after the last call of Acted.
func (c *Cache) IfCurrent(uid types.UID) (*cri.PodStatus, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.pods[uid]; e != nil {
		return e.pod, e.acted.IsZero()
	}
	return nil, true
}

// Acted says that a call to the runtime changed the pod, or may have: one that got no answer may have succeeded. It is
// called when the call has returned. Readings that began before do not count any more, nor do those of the same instant, nor
// what events tell, since the runtime may have read that before.
func (c *Cache) Acted(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entry(uid).acted = time.Now()
}

// entry returns what is known of a pod. Callers hold mu.
func (c *Cache) entry(uid types.UID) *entry {
	e := c.pods[uid]
	if e == nil {
		e = &entry{seen: map[string]time.Time{}}
		c.pods[uid] = e
	}
	return e
}

// Current returns a reading that began after the last call of Acted: that which is there, or the runtime is asked. A pod
// that the runtime does not have gets an empty reading.
func (c *Cache) Current(ctx context.Context, pod *corev1.Pod) (*cri.PodStatus, error) {
	known, current := c.IfCurrent(pod.UID)
	switch {
	case !current || known != nil && known.Shallow() || known == nil && !c.complete():
		read, err := cri.ReadPod(ctx, c.client, pod.UID, known)
		if err != nil {
			return nil, fmt.Errorf("read the pod from the runtime: %w", err)
		}
		_, known = c.take(read, fromList)
	case known == nil:
		known = &cri.PodStatus{UID: pod.UID, ObservedAt: time.Now()}
	}
	if known.Name == "" { // nothing of the runtime's names the pod
		known = &cri.PodStatus{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, ObservedAt: known.ObservedAt}
	}
	return known, nil
}

// Put takes in a reading of all of a pod.
func (c *Cache) Put(pod *cri.PodStatus) { c.take(pod, fromList) }

// Merge takes in what a caller has read of a sandbox or container that it just made. It says nothing of the rest of the pod,
// so it does not count as a reading that began after the last call of Acted.
func (c *Cache) Merge(part *cri.PodStatus) { c.take(part, fromPart) }

// take brings what is known of a pod up to date with a reading. It returns what was known before, and what is now.
func (c *Cache) take(r *cri.PodStatus, from source) (old, now *cri.PodStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.update(r, from)
}

// update is take for callers that hold mu.
func (c *Cache) update(r *cri.PodStatus, from source) (old, now *cri.PodStatus) {
	known := c.pods[r.UID] != nil
	e := c.entry(r.UID)
	old = e.pod
	base, at := r, r.ObservedAt
	var sandboxes []*runtimeapi.PodSandboxStatus
	var containers []*cri.ContainerStatus
	if old != nil {
		sandboxes, containers = old.Sandboxes, old.Containers
		if old.ObservedAt.After(at) {
			at = old.ObservedAt
		}
		if old.Name != "" && (from != fromList || r.Name == "") { // what has nothing of the pod has no name either
			base = old
		}
	}
	now = base.With(
		join(c, e, r, from, sandboxes, r.Sandboxes, (*runtimeapi.PodSandboxStatus).GetId, sandboxAge),
		join(c, e, r, from, containers, r.Containers, func(c *cri.ContainerStatus) string { return c.ID }, containerAge), at)
	if old != nil && now.ReadySandbox() == nil { // runtimes forget the addresses of a sandbox that has ended
		now.IPs = old.IPs
	}
	if from == fromEvent && !known && now.Gone() { // the last events of a pod that was forgotten already
		delete(c.pods, r.UID)
		return nil, nil
	}
	e.pod = now
	if from == fromList && !r.ObservedAt.Before(e.read) {
		e.read = r.ObservedAt
		if e.read.After(e.acted) {
			e.acted = time.Time{}
		}
	}
	return old, now
}

// gone remembers that a sandbox or container was removed. It returns what was known of its pod before, and what is now.
func (c *Cache) gone(id string) (old, now *cri.PodStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed[id] = time.Now()
	for uid, e := range c.pods {
		if e.pod.ContainerByID(id) != nil || e.pod.Sandbox(id) != nil {
			return c.update(&cri.PodStatus{UID: uid, ObservedAt: e.pod.ObservedAt}, fromEvent)
		}
	}
	return nil, nil
}

// Delete forgets a pod.
func (c *Cache) Delete(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, uid)
}

// UIDs returns the pods there are readings of, sorted.
func (c *Cache) UIDs() []types.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	uids := make([]types.UID, 0, len(c.pods))
	for uid, e := range c.pods {
		if e.pod != nil {
			uids = append(uids, uid)
		}
	}
	slices.Sort(uids)
	return uids
}

// retain forgets the pods that a list does not have, but for what was seen, or done, after the list began. It calls tell with
// what was known of each such pod before, and what is now.
func (c *Cache) retain(listed map[types.UID]*cri.PodStatus, at time.Time, tell func(old, now *cri.PodStatus)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for uid, e := range c.pods {
		if listed[uid] != nil {
			continue
		}
		old, now := c.update(&cri.PodStatus{UID: uid, ObservedAt: at}, fromList)
		if len(now.Sandboxes)+len(now.Containers) == 0 {
			now, e.pod = nil, nil
			if e.acted.IsZero() {
				delete(c.pods, uid)
			}
		}
		tell(old, now)
	}
}

// complete tells whether all pods of the runtime have been listed once.
func (c *Cache) complete() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.listed.IsZero()
}

// listedAt says when a list of all pods of the runtime began, and returns when the one before did.
func (c *Cache) listedAt(start time.Time) (before time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, c.listed = c.listed, start
	for id, at := range c.removed {
		if start.Sub(at) > rememberRemoved {
			delete(c.removed, id)
		}
	}
	return before
}
