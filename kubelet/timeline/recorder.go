package timeline

import (
	"context"
	"path"
	"slices"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"
)

// What a recorder keeps at most: at 100 pods less than 7 MiB.
const (
	maxSteps = 200      // of a pod
	maxBytes = 64 << 10 // of a pod's steps
	maxPods  = 256      // the pod whose last step is oldest goes first
	maxOpen  = 4096     // steps that have not ended; more are not recorded
	maxText  = 4 << 10  // bytes of one text
	maxNotes = 20       // of a step, the last ones
	tracer   = "minikubelet"
)

// Recorder keeps the last steps of each pod. It is a span processor: it learns of steps when their spans begin and end.
type Recorder struct {
	mu     sync.Mutex
	change uint64
	pods   map[types.UID]*history
	open   map[trace.SpanID]*openStep
	bells  map[chan struct{}]bool
	calls  map[string]*Calls
	hold   func(context.Context, *Step) // step mode; nil for none
}

// history is what is kept of one pod.
type history struct {
	Pod
	steps  []*Step // by their beginning
	bytes  int
	change uint64 // of the last step that changed
}

// openStep is a step whose span has not ended.
type openStep struct {
	step  *Step
	span  sdktrace.ReadOnlySpan
	notes int // that step has
}

// NewRecorder returns a recorder without any step.
func NewRecorder() *Recorder {
	return &Recorder{
		pods: map[types.UID]*history{}, open: map[trace.SpanID]*openStep{}, bells: map[chan struct{}]bool{}, calls: map[string]*Calls{},
	}
}

// OnStart records a step that begins. It is called by the goroutine that does the step.
func (r *Recorder) OnStart(parent context.Context, span sdktrace.ReadWriteSpan) {
	step := &Step{
		ID: span.SpanContext().SpanID(), Parent: span.Parent().SpanID(), Trace: span.SpanContext().TraceID(), Name: span.Name(), Start: span.StartTime(),
	}
	if strings.HasPrefix(step.Name, "runtime.v1.") { // a call's: PACKAGE.SERVICE/METHOD
		step.Method = path.Base(step.Name)
	}
	step.Runtime = span.SpanKind() == trace.SpanKindServer
	step.read(span)
	r.mu.Lock()
	if len(r.open) < maxOpen {
		r.begin(step, span)
	}
	r.mu.Unlock()
	if r.hold != nil {
		r.hold(parent, step)
	}
}

// begin notes a step. Its pod is its own or that of the step that it is part of. Callers hold mu.
func (r *Recorder) begin(step *Step, span sdktrace.ReadOnlySpan) {
	if of := r.open[step.Parent]; of != nil {
		step.Runtime = step.Runtime || of.step.Runtime
		if step.Pod == "" {
			step.Pod, step.PodName = of.step.Pod, of.step.PodName
		}
		if step.Container == "" && step.Pod == of.step.Pod {
			step.Container = of.step.Container
		}
	}
	r.open[step.ID] = &openStep{step: step, span: span, notes: len(step.Notes)}
	pod := r.pods[step.Pod]
	if pod == nil {
		r.makeRoom()
		pod = &history{Pod: Pod{UID: step.Pod, Name: step.PodName}}
		r.pods[step.Pod] = pod
	}
	if pod.Name == "" {
		pod.Name = step.PodName
	}
	pod.steps = append(pod.steps, step)
	pod.bytes += step.size()
	r.changed(step)
}

// makeRoom forgets the pod that had no step for the longest time if there are too many. Callers hold mu.
func (r *Recorder) makeRoom() {
	if len(r.pods) < maxPods {
		return
	}
	var oldest *history
	for uid, pod := range r.pods {
		if uid != "" && (oldest == nil || pod.change < oldest.change) {
			oldest = pod
		}
	}
	for _, step := range oldest.steps {
		step.dropped = true
	}
	delete(r.pods, oldest.UID)
}

// changed numbers a change, forgets the pod's first steps if there are too many, and tells who listens. Callers hold mu.
func (r *Recorder) changed(step *Step) {
	r.change++
	step.Change = r.change
	if pod := r.pods[step.Pod]; pod != nil {
		pod.change = r.change
		for len(pod.steps) > maxSteps || pod.bytes > maxBytes && len(pod.steps) > 1 {
			pod.bytes -= pod.steps[0].size()
			pod.steps[0].dropped = true
			pod.steps[0] = nil
			pod.steps = pod.steps[1:]
		}
	}
	for bell := range r.bells {
		select {
		case bell <- struct{}{}:
		default:
		}
	}
}

// OnEnd records how a step ended.
func (r *Recorder) OnEnd(span sdktrace.ReadOnlySpan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.open[span.SpanContext().SpanID()]
	if of == nil {
		return
	}
	delete(r.open, of.step.ID)
	r.update(of.step, func() {
		of.step.read(span)
		of.step.End = span.EndTime()
		if s := span.Status(); s.Code == codes.Error {
			of.step.Error = cut(s.Description)
		}
	})
	if of.step.Method != "" && !of.step.Runtime {
		r.count(of.step)
	}
}

// update changes a step. Callers hold mu.
func (r *Recorder) update(step *Step, change func()) {
	before := step.size()
	change()
	if pod := r.pods[step.Pod]; pod != nil && !step.dropped {
		pod.bytes += step.size() - before
	}
	r.changed(step)
}

// refresh reads what steps that go on have noted since. Callers hold mu.
func (r *Recorder) refresh() {
	for _, of := range r.open {
		if events := of.span.Events(); len(events) != of.notes {
			of.notes = len(events)
			r.update(of.step, func() { of.step.read(of.span) })
		}
	}
}

// of returns the step of a span that goes on; an empty one if it is not known.
func (r *Recorder) of(span trace.SpanID) Step {
	r.mu.Lock()
	defer r.mu.Unlock()
	if open := r.open[span]; open != nil {
		return *open.step
	}
	return Step{}
}

// Shutdown does nothing: steps stay readable until the process ends.
func (r *Recorder) Shutdown(context.Context) error { return nil }

// ForceFlush does nothing: steps are readable at once.
func (r *Recorder) ForceFlush(context.Context) error { return nil }

// Steps returns what is kept of a pod's steps, or of the node's for "", by their beginning.
func (r *Recorder) Steps(pod types.UID) []Step {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh()
	h := r.pods[pod]
	if h == nil {
		return nil
	}
	steps := make([]Step, len(h.steps))
	for i, step := range h.steps {
		steps[i] = *step
	}
	return steps
}

// Pods returns the pods that have steps; the node is none of them.
func (r *Recorder) Pods() []Pod {
	r.mu.Lock()
	defer r.mu.Unlock()
	pods := make([]Pod, 0, len(r.pods))
	for _, pod := range r.pods {
		if pod.UID != "" {
			pods = append(pods, pod.Pod)
		}
	}
	slices.SortFunc(pods, func(a, b Pod) int { return strings.Compare(a.Name+string(a.UID), b.Name+string(b.UID)) })
	return pods
}

// Since returns the steps of all pods and of the node that began or changed after the change, by their last change, at most
// limit of them, and the change to ask with next.
func (r *Recorder) Since(change uint64, limit int) (steps []Step, next uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh()
	var found []*Step
	for _, pod := range r.pods {
		if pod.change <= change {
			continue
		}
		for _, step := range pod.steps {
			if step.Change > change {
				found = append(found, step)
			}
		}
	}
	slices.SortFunc(found, func(a, b *Step) int { return int(int64(a.Change) - int64(b.Change)) })
	next = r.change
	if len(found) > limit {
		found = found[:limit]
		next = found[limit-1].Change
	}
	for _, step := range found {
		steps = append(steps, *step)
	}
	return steps, next
}

// Subscribe returns a bell that rings, once for any number of them, after steps began or changed: Since then has them. stop
// ends that.
func (r *Recorder) Subscribe() (bell <-chan struct{}, stop func()) {
	rings := make(chan struct{}, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bells[rings] = true
	return rings, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.bells, rings)
	}
}

// read takes from a span what the step has not at its beginning.
func (s *Step) read(span sdktrace.ReadOnlySpan) {
	s.Attributes = nil
	for _, a := range span.Attributes() {
		s.set(string(a.Key), a.Value)
	}
	events := span.Events()
	events = events[max(0, len(events)-maxNotes):]
	s.Notes = nil
	for _, e := range events {
		if e.Name == "exception" || e.Name == "message" { // the error has its own place; messages are those of a call
			continue
		}
		s.Notes = append(s.Notes, Note{At: e.Time, Text: cut(e.Name)})
	}
}

func (s *Step) set(key string, value attribute.Value) {
	switch key {
	case "k8s.pod.uid":
		s.Pod = types.UID(value.AsString())
	case "k8s.pod":
		s.PodName = cut(value.AsString())
	case "k8s.container.name":
		s.Container = cut(value.AsString())
	case "step.why":
		s.Why = cut(value.AsString())
	case "step.before":
		s.Before = cut(value.AsString())
	case "step.after":
		s.After = cut(value.AsString())
	case "code.function.name":
		s.Function = value.AsString()
	case "code.file.path":
		s.File = value.AsString()
	case "code.line.number":
		s.Line = int(value.AsInt64())
	case "k8s.pod.name", "k8s.namespace.name":
	default:
		for _, prefix := range []string{"rpc.", "network.", "server.", "client."} {
			if strings.HasPrefix(key, prefix) && !strings.Contains(key, "status_code") {
				return
			}
		}
		s.Attributes = append(s.Attributes, Attribute{key, cut(value.String())})
	}
}

// cut shortens a text that is too long, between two characters.
func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}
