// Package timeline shows what the kubelet does for each pod, while it does it: a recorder keeps the last steps of every pod, and a
// page on loopback shows them. The rest of the kubelet opens OpenTelemetry spans and knows nothing of this package.
package timeline

import (
	"time"
	"unsafe"

	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/kubelet/timeline/story"
)

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
	// What is what a numbered step of the runtime does, in the words of its source; only the page knows it.
	What string `json:"what,omitempty"`
	// Function, File and Line say where it is done; Upstream is the file and function that play the part upstream.
	Function string `json:"function,omitempty"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Upstream string `json:"upstream,omitempty"`
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
	n := int(unsafe.Sizeof(*s)) + len(s.Error) + len(s.Why) + len(s.Before) + len(s.After)
	for _, a := range s.Attributes {
		n += int(unsafe.Sizeof(a)) + len(a.Value)
	}
	for _, note := range s.Notes {
		n += int(unsafe.Sizeof(note)) + len(note.Text)
	}
	return n
}
