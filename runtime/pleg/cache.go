package pleg

import (
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"minikubelet/runtime/cri"
)

// Cache holds the newest reading of every pod the runtime has. Pod workers put theirs into it, the PLEG its own.
//
// Upstream: pkg/kubelet/container/cache.go
type Cache struct {
	mu   sync.Mutex
	pods map[types.UID]*cri.PodStatus
}

// NewCache returns an empty cache.
func NewCache() *Cache { return &Cache{pods: map[types.UID]*cri.PodStatus{}} }

// Get returns the newest reading of a pod.
func (c *Cache) Get(uid types.UID) (*cri.PodStatus, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pod, ok := c.pods[uid]
	return pod, ok
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
	c.pods[pod.UID] = pod
	return old, true
}

// update replaces a reading by what change makes of it, nil to leave it alone. Nobody puts another one between.
func (c *Cache) update(uid types.UID, change func(old *cri.PodStatus) *cri.PodStatus) (old, now *cri.PodStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old = c.pods[uid]
	now = change(old)
	if now != nil {
		c.pods[uid] = now
	}
	return old, now
}

// gone forgets a pod that a list, begun at pod.ObservedAt, did not have. It returns what was known of it, nil when a
// later reading is there.
func (c *Cache) gone(pod *cri.PodStatus) (old *cri.PodStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old = c.pods[pod.UID]
	if old == nil || old.ObservedAt.After(pod.ObservedAt) {
		return nil
	}
	delete(c.pods, pod.UID)
	return old
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
