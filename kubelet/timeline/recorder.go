// Package timeline shows what the kubelet does for each pod, while it does it: a recorder keeps the last steps of every pod, and a
// page on loopback shows them. The rest of the kubelet opens OpenTelemetry spans and knows nothing of this package.
package timeline

import (
	"cmp"
	"context"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/kubelet/timeline/story"
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
	bell   chan struct{}               // closed at the next change, which wakes the readers; nil while no reader waits
	hold   func(context.Context, Step) // step mode; nil for none
}

// history is what is kept of one pod.
type history struct {
	name   string  // NAMESPACE/NAME
	steps  []*Step // as they were told of
	short  int     // so many of the first steps have lost what they changed, for room
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
	return &Recorder{pods: map[types.UID]*history{}, open: map[trace.SpanID]*openStep{}}
}

// OnStart records a step that begins. It is called by the goroutine that does the step.
func (r *Recorder) OnStart(parent context.Context, span sdktrace.ReadWriteSpan) {
	step := &Step{
		ID: span.SpanContext().SpanID(), Parent: span.Parent().SpanID(), Trace: span.SpanContext().TraceID(), Step: story.Step{Name: span.Name(), Start: span.StartTime()},
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
	begun := *step
	r.mu.Unlock()
	if r.hold != nil {
		r.hold(parent, begun)
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
		pod = &history{}
		r.pods[step.Pod] = pod
	}
	pod.name = cmp.Or(pod.name, step.PodName)
	pod.steps = append(pod.steps, step)
	pod.bytes += step.size()
	r.changed(step)
}

// makeRoom forgets the pod that had no step for the longest time if there are too many. Callers hold mu.
func (r *Recorder) makeRoom() {
	if len(r.pods) < maxPods {
		return
	}
	pods := slices.DeleteFunc(slices.Collect(maps.Keys(r.pods)), func(uid types.UID) bool { return uid == "" })
	oldest := slices.MinFunc(pods, func(a, b types.UID) int { return cmp.Compare(r.pods[a].change, r.pods[b].change) })
	delete(r.pods, oldest)
}

// changed numbers a change, forgets what the pod's first steps changed if all that takes too much room, and then these steps, and
// tells who listens. Callers hold mu.
func (r *Recorder) changed(step *Step) {
	r.change++
	step.Change = r.change
	if pod := r.pods[step.Pod]; pod != nil {
		pod.change = r.change
		for ; pod.bytes > maxBytes && pod.short < len(pod.steps)-1; pod.short++ {
			first := pod.steps[pod.short]
			pod.bytes -= len(first.Before) + len(first.After)
			first.Before, first.After = "", ""
		}
		for len(pod.steps) > maxSteps || pod.bytes > maxBytes && len(pod.steps) > 1 {
			pod.bytes -= pod.steps[0].size()
			pod.steps[0], pod.steps = nil, pod.steps[1:]
			pod.short = max(pod.short-1, 0)
		}
	}
	if r.bell != nil {
		close(r.bell)
		r.bell = nil
	}
}

// OnEnd records how a step ended.
func (r *Recorder) OnEnd(span sdktrace.ReadOnlySpan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if of := r.open[span.SpanContext().SpanID()]; of != nil {
		delete(r.open, of.step.ID)
		r.update(of.step, span)
	}
}

// update reads a step anew. Callers hold mu.
func (r *Recorder) update(step *Step, span sdktrace.ReadOnlySpan) {
	before := step.size()
	step.read(span)
	if pod := r.pods[step.Pod]; pod != nil && slices.Contains(pod.steps, step) {
		pod.bytes += step.size() - before
	}
	r.changed(step)
}

// refresh reads what steps that go on have noted since. Callers hold mu.
func (r *Recorder) refresh() {
	for _, of := range r.open {
		if n := len(of.span.Events()) + of.span.DroppedEvents(); n != of.notes {
			of.notes = n
			r.update(of.step, of.span)
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

// Shutdown and ForceFlush do nothing: steps are readable at once, and until the process ends.
func (r *Recorder) Shutdown(context.Context) error { return nil }

// ForceFlush is Shutdown.
func (r *Recorder) ForceFlush(context.Context) error { return nil }

// Steps returns what is kept of pods' steps, of the node's for "", in the order in which they were told of; all without pods.
func (r *Recorder) Steps(pods ...string) (steps []Step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh()
	for uid, pod := range r.pods {
		if len(pods) == 0 || slices.Contains(pods, string(uid)) {
			for _, step := range pod.steps {
				steps = append(steps, *step)
			}
		}
	}
	return steps
}

// Pods returns the pods that have steps, with their names; the node is none of them.
func (r *Recorder) Pods() map[types.UID]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	pods := map[types.UID]string{}
	for uid, pod := range r.pods {
		if uid != "" {
			pods[uid] = pod.name
		}
	}
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
		for _, step := range pod.steps {
			if step.Change > change {
				found = append(found, step)
			}
		}
	}
	slices.SortFunc(found, func(a, b *Step) int { return cmp.Compare(a.Change, b.Change) })
	if next = r.change; len(found) > limit {
		found = found[:limit]
		next = found[limit-1].Change
	}
	for _, step := range found {
		steps = append(steps, *step)
	}
	return steps, next
}

// Bell returns a channel that is closed when steps begin or change: Since then has them.
func (r *Recorder) Bell() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bell == nil {
		r.bell = make(chan struct{})
	}
	return r.bell
}

// read takes from a span what the step has not at its beginning.
func (s *Step) read(span sdktrace.ReadOnlySpan) {
	s.Attributes, s.Notes, s.End = nil, nil, span.EndTime()
	if status := span.Status(); status.Code == codes.Error {
		s.Error = cut(status.Description)
	}
	for _, a := range span.Attributes() {
		s.set(string(a.Key), a.Value)
	}
	events := span.Events()
	for _, e := range events[max(0, len(events)-maxNotes):] {
		if e.Name != "exception" && e.Name != "message" { // the error has its own place; messages are those of a call
			s.Notes = append(s.Notes, Note{At: e.Time, Text: cut(e.Name)})
		}
	}
}

// texts are the attributes of a span that are a step's own fields.
var texts = map[string]func(*Step) *string{
	"k8s.pod": func(s *Step) *string { return &s.PodName }, "k8s.container.name": func(s *Step) *string { return &s.Container },
	"step.why": func(s *Step) *string { return &s.Why }, "step.before": func(s *Step) *string { return &s.Before }, "step.after": func(s *Step) *string { return &s.After },
	"code.function.name": func(s *Step) *string { return &s.Function }, "code.file.path": func(s *Step) *string { return &s.File },
}

func (s *Step) set(key string, value attribute.Value) {
	group, _, _ := strings.Cut(key, ".")
	switch field := texts[key]; {
	case field != nil:
		*field(s) = cut(value.AsString())
	case key == "k8s.pod.uid":
		s.Pod = types.UID(value.AsString())
	case key == "code.line.number":
		s.Line = int(value.AsInt64())
	case key == "k8s.pod.name" || key == "k8s.namespace.name":
	case !slices.Contains([]string{"rpc", "network", "server", "client"}, group) || strings.Contains(key, "status_code"):
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

// Step is something that was done, or is being done, for a pod or for the node: one span.
type Step struct {
	story.Step
	ID     trace.SpanID  `json:"id"`
	Parent trace.SpanID  `json:"parent"` // zero for none
	Trace  trace.TraceID `json:"trace"`
	// Pod is whom it was done for; "" for the node.
	Pod       types.UID `json:"pod,omitempty"`
	PodName   string    `json:"podName,omitempty"` // NAMESPACE/NAME
	Container string    `json:"container,omitempty"`
	// Method is the CRI method of a call, on either side of the socket.
	Method string `json:"method,omitempty"`
	// Runtime says that the step is the embedded runtime's: the other side of the socket.
	Runtime bool `json:"runtime,omitempty"`
	// What is what a step of this name does; only the page knows it.
	What string `json:"what,omitempty"`
	// Function, File and Line say where it is done.
	Function string `json:"function,omitempty"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	// Before and After are what the step changed, as YAML.
	Before     string      `json:"before,omitempty"`
	After      string      `json:"after,omitempty"`
	Attributes []Attribute `json:"attributes,omitempty"`
	Notes      []Note      `json:"notes,omitempty"`
	// Change grows whenever a step begins or changes; no two steps have the same.
	Change uint64 `json:"change"`
}

// Attribute is what else is known of a step.
type Attribute struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Note is something that happened during a step, such as a pull's progress.
type Note struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// size is about how much memory the step takes. Names are constants of the program, or shared by a pod's steps.
func (s *Step) size() int {
	n := int(unsafe.Sizeof(*s)) + len(s.Container) + len(s.Error) + len(s.Why) + len(s.Before) + len(s.After)
	for _, a := range s.Attributes {
		n += int(unsafe.Sizeof(a)) + len(a.Value)
	}
	for _, note := range s.Notes {
		n += int(unsafe.Sizeof(note)) + len(note.Text)
	}
	return n
}
