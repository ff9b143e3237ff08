package local

import (
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/kubelet/timeline/story"
)

const (
	maxEvents = 32  // different ones that are kept of a pod, the newest
	maxPods   = 500 // that events are kept of, those that had one last
)

// Record takes an event of a pod; one that came before is counted. Without an apiserver there is no other place for events, and
// with one they stay for an hour only.
func (l *Local) Record(e *corev1.Event) {
	if e.InvolvedObject.Kind != "Pod" {
		return
	}
	defer l.Changed()
	l.mu.Lock()
	defer l.mu.Unlock()
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
	list := l.events[uid]
	if i := slices.IndexFunc(list, func(o story.Event) bool {
		return o.Reason == took.Reason && o.Message == took.Message && o.Container == took.Container
	}); i >= 0 {
		took.First, took.Count = list[i].First, list[i].Count+1
		list = slices.Delete(list, i, i+1)
	} else if len(list) >= maxEvents {
		list = slices.Delete(list, 0, 1)
	}
	l.events[uid] = append(list, took)
	if len(l.events) > maxPods {
		last := func(uid types.UID) time.Time { return l.events[uid][len(l.events[uid])-1].Last }
		delete(l.events, slices.MinFunc(slices.Collect(maps.Keys(l.events)), func(a, b types.UID) int { return last(a).Compare(last(b)) }))
	}
}

// Events returns a pod's events, the oldest first.
func (l *Local) Events(uid types.UID) []story.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events[uid])
}

// Pulling says how far a layer of an image is that is being pulled. Only a runtime in the same process tells.
func (l *Local) Pulling(image, layer string, done, total int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.layers[image] == nil {
		l.layers[image] = map[string]story.Pull{}
	}
	l.layers[image][layer] = story.Pull{Done: done, Total: total}
}

// Pulled says that an image is there, or is begun with anew.
func (l *Local) Pulled(image string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.layers, image)
}

// Pulls returns the images that are being pulled, the layers of each added up.
func (l *Local) Pulls() []story.Pull {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []story.Pull
	for image, layers := range l.layers {
		sum := story.Pull{Image: image}
		for _, layer := range layers {
			sum.Done, sum.Total = sum.Done+layer.Done, sum.Total+layer.Total
		}
		all = append(all, sum)
	}
	return all
}
