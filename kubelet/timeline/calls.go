package timeline

import (
	"slices"
	"strings"
	"time"
)

// Calls is what is known of the calls of one CRI method.
type Calls struct {
	Method string `json:"method"`
	Count  int    `json:"count"`
	Failed int    `json:"failed"`
	Open   int    `json:"open"` // in flight
	// Median, Most and Last are milliseconds; the median and the most of the last 100 calls.
	Median float64 `json:"median"`
	Most   float64 `json:"most"`
	Last   float64 `json:"last"`

	recent []float64
}

const recentCalls = 100

// count counts a call that has ended. Callers hold mu.
func (r *Recorder) count(step *Step) {
	c := r.calls[step.Method]
	if c == nil {
		c = &Calls{Method: step.Method}
		r.calls[step.Method] = c
	}
	c.Count++
	if step.Error != "" {
		c.Failed++
	}
	c.Last = float64(step.End.Sub(step.Start)) / float64(time.Millisecond)
	if len(c.recent) == recentCalls {
		c.recent = append(c.recent[:0], c.recent[1:]...)
	}
	c.recent = append(c.recent, c.Last)
}

// Calls returns what is known of calls to the container runtime, by method.
func (r *Recorder) Calls() []Calls {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := map[string]Calls{}
	for method, c := range r.calls {
		one := *c
		sorted := slices.Sorted(slices.Values(c.recent))
		one.Median, one.Most, one.recent = sorted[len(sorted)/2], sorted[len(sorted)-1], nil
		calls[method] = one
	}
	for _, of := range r.open {
		if m := of.step.Method; m != "" && !of.step.Runtime {
			one := calls[m]
			one.Method = m
			one.Open++
			calls[m] = one
		}
	}
	list := make([]Calls, 0, len(calls))
	for _, c := range calls {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Calls) int { return strings.Compare(a.Method, b.Method) })
	return list
}
