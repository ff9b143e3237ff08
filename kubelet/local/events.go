package local

import (
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/kubelet/timeline/story"
)

const (
	maxEvents = 32  // different ones that are kept of a pod, the newest
	maxPods   = 500 // that events are kept of, those that had one last
)

// Events remembers what was last told of each pod. Without an apiserver there is no other place for it, and with one an
// event stays for an hour only.
type Events struct {
	mu      sync.Mutex
	byPod   map[types.UID][]story.Event
	changed func()
}

// NewEvents remembers nothing yet. changed is called after each event and must not block.
func NewEvents(changed func()) *Events {
	return &Events{byPod: map[types.UID][]story.Event{}, changed: changed}
}

// Record takes an event. One that came before is counted.
func (r *Events) Record(e *corev1.Event) {
	if e.InvolvedObject.Kind != "Pod" {
		return
	}
	defer r.changed()
	r.mu.Lock()
	defer r.mu.Unlock()
	uid, at := e.InvolvedObject.UID, e.LastTimestamp.Time
	if at.IsZero() {
		at = time.Now()
	}
	took := story.Event{
		First: at, Last: at, Count: 1, Warning: e.Type == corev1.EventTypeWarning, Reason: e.Reason, Message: e.Message,
		Container: containerIn(e.InvolvedObject.FieldPath),
	}
	list := r.byPod[uid]
	if i := slices.IndexFunc(list, func(o story.Event) bool {
		return o.Reason == took.Reason && o.Message == took.Message && o.Container == took.Container
	}); i >= 0 {
		took.First, took.Count = list[i].First, list[i].Count+1
		list = slices.Delete(list, i, i+1)
	} else if len(list) >= maxEvents {
		list = slices.Delete(list, 0, 1)
	}
	r.byPod[uid] = append(list, took)
	if len(r.byPod) > maxPods {
		r.dropOldest()
	}
}

// dropOldest forgets the pod whose last event is the oldest. The caller holds the lock.
func (r *Events) dropOldest() {
	var oldest types.UID
	var at time.Time
	for uid, list := range r.byPod {
		if last := list[len(list)-1].Last; oldest == "" || last.Before(at) {
			oldest, at = uid, last
		}
	}
	delete(r.byPod, oldest)
}

// Of returns a pod's events, the oldest first.
func (r *Events) Of(uid types.UID) []story.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.byPod[uid])
}

// containerIn is the name in spec.containers{name}.
func containerIn(fieldPath string) string {
	_, name, ok := strings.Cut(fieldPath, "{")
	if !ok {
		return ""
	}
	return strings.TrimSuffix(name, "}")
}
