package timeline

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"minikubelet/kubelet/timeline/story"
)

// State is what the page shows besides steps. Held and Modes are the page's own.
type State struct {
	Node     string          `json:"node"`
	Version  string          `json:"version"`
	Pods     []story.Summary `json:"pods"` // those that should run; the page adds those of which only steps are left
	Channels []Channel       `json:"channels"`
	Workers  []Worker        `json:"workers"`
	// Writes are the pods whose status is not in the apiserver yet, with the time since when.
	Writes map[types.UID]time.Time `json:"writes"`
	Held   []Held                  `json:"held"`
	Modes  []string                `json:"modes"` // what of --step and --chaos is on
}

// Channel is one that the sync loop reads from.
type Channel struct {
	Name     string `json:"name"`
	Waiting  int    `json:"waiting"`
	Capacity int    `json:"capacity"`
}

// Worker is a pod's goroutine with its mailbox.
type Worker struct {
	Pod   types.UID `json:"pod"`
	Phase string    `json:"phase"`
	Mail  bool      `json:"mail"`  // an update that no step has seen
	Rings bool      `json:"rings"` // there is a reason for another step
}

// state is what is true now, as it is sent.
func (p *Page) state() State {
	s := p.now()
	s.Held = p.steps.Held()
	slices.SortFunc(s.Workers, func(a, b Worker) int { return cmp.Compare(a.Pod, b.Pod) })
	gone := p.recorder.Pods()
	for _, pod := range s.Pods {
		delete(gone, pod.UID)
	}
	for _, uid := range slices.Sorted(maps.Keys(gone)) {
		s.Pods = append(s.Pods, story.Summary{UID: uid, Name: gone[uid], State: "Gone", Gone: true})
	}
	if p.steps != nil {
		s.Modes = append(s.Modes, "--step="+p.steps.String())
	}
	if p.chaos != nil {
		s.Modes = append(s.Modes, "--chaos="+p.chaos.String())
	}
	return s
}
