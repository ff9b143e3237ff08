package images

import (
	"context"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/trace"
	"k8s.io/klog/v2"
)

// Phase says what is done with an image or layer.
type Phase string

// The phases, in their order. A layer that is there already goes straight to Ready.
const (
	Resolving   Phase = "Resolving"   // an image's manifest and config are read
	Downloading Phase = "Downloading" // of a layer; several times as it goes on
	Unpacking   Phase = "Unpacking"   // of a layer
	Ready       Phase = "Ready"       // of a layer, then of the image
)

// Event is one step of a pull or an import.
type Event struct {
	Image string // its name
	Layer string // diffID of the layer; "" for the image
	Phase Phase
	Done  int64 // bytes of the layer downloaded
	Total int64
}

// report tells the log, the trace and Options.Progress of a step.
func (s *Store) report(ctx context.Context, e Event) {
	klog.FromContext(ctx).V(4).Info("Image progress", "image", e.Image, "layer", e.Layer, "phase", e.Phase, "bytes", e.Done, "of", e.Total)
	if e.Layer != "" {
		trace.SpanFromContext(ctx).AddEvent(fmt.Sprintf("%s: layer %.12s, %.1f of %.1f MB", e.Phase, strings.TrimPrefix(e.Layer, "sha256:"), float64(e.Done)/1e6, float64(e.Total)/1e6))
	}
	if s.options.Progress != nil {
		s.options.Progress(e)
	}
}
