package local

import (
	"slices"
	"strings"
	"sync"
	"time"

	"minikubelet/kubelet/timeline/story"
)

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
	p.layers[image][layer] = story.Pull{Image: image, Done: done, Total: total}
	if now := time.Now(); now.Sub(p.told) >= often {
		p.told = now
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
	for image, layers := range p.layers {
		sum := story.Pull{Image: image}
		for _, l := range layers {
			sum.Done, sum.Total = sum.Done+l.Done, sum.Total+l.Total
		}
		all = append(all, sum)
	}
	slices.SortFunc(all, func(a, b story.Pull) int { return strings.Compare(a.Image, b.Image) })
	return all
}
