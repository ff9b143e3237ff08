package timeline

import (
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// exported returns the steps that a request asks for: those of one pod, of the node, or all.
func (p *Page) exported(r *http.Request) []Step {
	if r.URL.Query().Has("pod") {
		return p.recorder.Steps(types.UID(r.URL.Query().Get("pod")))
	}
	steps := p.recorder.Steps("")
	for _, pod := range p.recorder.Pods() {
		steps = append(steps, p.recorder.Steps(pod.UID)...)
	}
	return steps
}

// export sends steps as JSON.
func (p *Page) export(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Disposition", `attachment; filename="steps.json"`)
	reply(w, p.exported(r))
}

// traceEvent is an event of the trace format that Perfetto and Chrome's tracing read.
type traceEvent struct {
	Name  string         `json:"name"`
	Phase string         `json:"ph"`
	At    int64          `json:"ts"` // in microseconds
	Takes int64          `json:"dur,omitempty"`
	Group int            `json:"pid"`
	Line  int            `json:"tid"`
	Args  map[string]any `json:"args,omitempty"`
}

// perfetto sends steps as a trace: a process for each pod, a thread for each step that is part of none, with those that are
// part of it.
func (p *Page) perfetto(w http.ResponseWriter, r *http.Request) {
	groups, lines := map[types.UID]int{}, map[string]int{}
	var events []traceEvent
	for _, s := range p.exported(r) {
		group, known := groups[s.Pod]
		if !known {
			group = len(groups) + 1
			groups[s.Pod] = group
			name := s.PodName
			if s.Pod == "" {
				name = "node"
			}
			events = append(events, traceEvent{Name: "process_name", Phase: "M", Group: group, Args: map[string]any{"name": name}})
		}
		key := fmt.Sprint(s.Trace, s.Runtime)
		if lines[key] == 0 {
			lines[key] = len(lines) + 1
		}
		end := s.End
		if s.Running() {
			end = time.Now()
		}
		events = append(events, traceEvent{
			Name: s.Name, Phase: "X", At: s.Start.UnixMicro(), Takes: max(end.Sub(s.Start).Microseconds(), 1), Group: group, Line: lines[key],
			Args: map[string]any{"why": s.Why, "error": s.Error, "container": s.Container, "function": s.Function},
		})
	}
	w.Header().Set("Content-Disposition", `attachment; filename="perfetto.json"`)
	reply(w, map[string]any{"traceEvents": events, "displayTimeUnit": "ms"})
}
