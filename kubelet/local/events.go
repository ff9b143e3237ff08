package local

import (
	"maps"
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
	}
	if _, name, ok := strings.Cut(e.InvolvedObject.FieldPath, "{"); ok { // spec.containers{name}
		took.Container = strings.TrimSuffix(name, "}")
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
		last := func(uid types.UID) time.Time { return r.byPod[uid][len(r.byPod[uid])-1].Last }
		delete(r.byPod, slices.MinFunc(slices.Collect(maps.Keys(r.byPod)), func(a, b types.UID) int { return last(a).Compare(last(b)) }))
	}
}

// Of returns a pod's events, the oldest first.
func (r *Events) Of(uid types.UID) []story.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.byPod[uid])
}

// Pulls knows how far the images are that are being pulled. Only a runtime in the same process tells.
type Pulls struct {
	mu      sync.Mutex
	layers  map[string]map[string]story.Pull // by image, by layer
	told    time.Time
	changed func()
}

// NewPulls knows of no pull. changed is called now and then as they go on, and must not block.
func NewPulls(changed func()) *Pulls {
	return &Pulls{layers: map[string]map[string]story.Pull{}, changed: changed}
}

// often is how often a pull that goes on is told of at most.
const often = 500 * time.Millisecond

// Progress says how far a layer is.
func (p *Pulls) Progress(image, layer string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.layers[image] == nil {
		p.layers[image] = map[string]story.Pull{}
	}
	p.layers[image][layer] = story.Pull{Done: done, Total: total}
	if time.Since(p.told) >= often {
		p.told = time.Now()
		p.changed()
	}
}

// Ended says that an image is there, or is begun with anew.
func (p *Pulls) Ended(image string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.layers, image)
}

// All returns the pulls, the layers of an image added up.
func (p *Pulls) All() []story.Pull {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []story.Pull
	for _, image := range slices.Sorted(maps.Keys(p.layers)) {
		sum := story.Pull{Image: image}
		for _, l := range p.layers[image] {
			sum.Done, sum.Total = sum.Done+l.Done, sum.Total+l.Total
		}
		all = append(all, sum)
	}
	return all
}
