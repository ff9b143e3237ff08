package pleg

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/runtime/cri"
)

// Cache is the one holder of what the runtime says of pods. The PLEG puts readings into it, from events and from lists;
// Current adds one when a caller needs to know what became of its last call to the runtime and no event has told yet.
//
// Upstream: pkg/kubelet/container/cache.go
type Cache struct {
	client *cri.Client

	mu     sync.Mutex
	pods   map[types.UID]*cri.PodStatus
	acted  map[types.UID]time.Time // when a pod was last acted upon, if no reading of it began after that
	listed bool                    // all pods have been listed: what is not in pods, the runtime does not have
}

// NewCache returns an empty cache that asks client for what it does not know.
func NewCache(client *cri.Client) *Cache {
	return &Cache{client: client, pods: map[types.UID]*cri.PodStatus{}, acted: map[types.UID]time.Time{}}
}

// Get returns the newest reading of a pod, which may be older than what was last done to the pod.
func (c *Cache) Get(uid types.UID) (*cri.PodStatus, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pod, ok := c.pods[uid]
	return pod, ok
}

// IfCurrent returns the newest reading of a pod if it began after the last call of Acted.
func (c *Cache) IfCurrent(uid types.UID) (*cri.PodStatus, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, acted := c.acted[uid]
	return c.pods[uid], !acted
}

// Merge adds to a pod's reading what a caller has read of one sandbox or container that it just made. It says nothing of
// the rest of the pod, so it does not count as a reading that began after the last call of Acted.
func (c *Cache) Merge(part *cri.PodStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.pods[part.UID]
	at := part.ObservedAt
	if old != nil && at.Before(old.ObservedAt) {
		at = old.ObservedAt
	}
	c.pods[part.UID] = add(old, part, at)
}

// Acted says that a call to the runtime changed the pod, or may have: one that got no answer may have succeeded. It is
// called when the call has returned; readings that began before do not count any more, nor do those of the same instant.
func (c *Cache) Acted(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acted[uid] = time.Now()
}

// Current returns a reading that began after the last call of Acted. Mostly an event has brought one; if not, the runtime
// is asked. A pod that the runtime does not have gets an empty reading.
func (c *Cache) Current(ctx context.Context, pod *corev1.Pod) (*cri.PodStatus, error) {
	c.mu.Lock()
	known, listed := c.pods[pod.UID], c.listed
	_, acted := c.acted[pod.UID]
	c.mu.Unlock()
	switch {
	case acted || known != nil && known.Shallow() || known == nil && !listed:
		read, err := cri.ReadPod(ctx, c.client, pod.UID, known)
		if err != nil {
			return nil, fmt.Errorf("read the pod from the runtime: %w", err)
		}
		known = c.newest(read)
	case known == nil:
		known = &cri.PodStatus{UID: pod.UID, ObservedAt: time.Now()}
	}
	if known.Name == "" { // nothing of the runtime's names the pod
		known = &cri.PodStatus{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, ObservedAt: known.ObservedAt}
	}
	return known, nil
}

// newest stores a reading and returns it, or the one that is there if that began later.
func (c *Cache) newest(read *cri.PodStatus) *cri.PodStatus {
	if old, stored := c.replace(read); !stored {
		return old
	}
	return read
}

// Put stores a reading, unless there is one that began later.
func (c *Cache) Put(pod *cri.PodStatus) (stored bool) {
	_, stored = c.replace(pod)
	return stored
}

// Delete forgets a pod.
func (c *Cache) Delete(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, uid)
	delete(c.acted, uid)
}

// UIDs returns the pods there are readings of, sorted.
func (c *Cache) UIDs() []types.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.pods))
}

// replace is Put that also returns what was there before.
func (c *Cache) replace(pod *cri.PodStatus) (old *cri.PodStatus, stored bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old = c.pods[pod.UID]
	if old != nil && old.ObservedAt.After(pod.ObservedAt) {
		return old, false
	}
	c.store(pod)
	return old, true
}

// store replaces the pod's reading. Callers hold mu.
func (c *Cache) store(pod *cri.PodStatus) {
	c.pods[pod.UID] = pod
	if acted, ok := c.acted[pod.UID]; ok && pod.ObservedAt.After(acted) {
		delete(c.acted, pod.UID)
	}
}

// update replaces a reading by what change makes of it, nil to leave it alone. No other reading is stored between.
func (c *Cache) update(uid types.UID, change func(old *cri.PodStatus) *cri.PodStatus) (old, now *cri.PodStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old = c.pods[uid]
	now = change(old)
	if now != nil {
		c.store(now)
	}
	return old, now
}

// retain forgets the pods that a list does not have. It returns the readings of those that it forgot. A reading, or an
// action, that is later than the list counts more than the list.
func (c *Cache) retain(listed map[types.UID]*cri.PodStatus, at time.Time) (gone []*cri.PodStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for uid, pod := range c.pods {
		if listed[uid] == nil && !pod.ObservedAt.After(at) {
			delete(c.pods, uid)
			gone = append(gone, pod)
		}
	}
	for uid, acted := range c.acted {
		if listed[uid] == nil && c.pods[uid] == nil && !acted.After(at) {
			delete(c.acted, uid)
		}
	}
	return gone
}

// complete says that all pods of the runtime have been listed once.
func (c *Cache) complete() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listed = true
}

// owner returns the pod that has the sandbox or container, "" if none has.
func (c *Cache) owner(id string) types.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	for uid, pod := range c.pods {
		if pod.ContainerByID(id) != nil || pod.Sandbox(id) != nil {
			return uid
		}
	}
	return ""
}
