package criserver

import (
	"context"
	"path"
	"runtime"
	"strings"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

// track is a series of steps of which one ends when the next begins. A call has one, and each of its goroutines that takes steps
// of its own.
type track struct {
	mu   sync.Mutex
	span trace.Span // of the step that goes on; nil for none
}

type trackKey struct{}

// branch gives the context a track of its own.
func branch(ctx context.Context) context.Context {
	if ctx.Value(trackKey{}) == nil {
		return ctx
	}
	return context.WithValue(ctx, trackKey{}, &track{})
}

// step begins a step of what makes and removes sandboxes and containers, and ends the one before; a name with " end" only ends
// that. Each is a trace span where the caller of the CRI sent one of its own.
func (s *Server) step(ctx context.Context, name string) {
	if s.options.Step != nil {
		s.options.Step(name)
	}
	if on, ok := ctx.Value(trackKey{}).(*track); ok {
		on.next(ctx, name)
	}
}

func (t *track) next(ctx context.Context, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.span != nil {
		t.span.End()
		t.span = nil
	}
	// What goes on after the call was answered has no spans.
	if !trace.SpanFromContext(ctx).IsRecording() || strings.HasSuffix(name, " end") {
		return
	}
	pc, file, line, _ := runtime.Caller(2)
	function := runtime.FuncForPC(pc).Name()
	_, t.span = otel.Tracer("minikubelet").Start(ctx, name, trace.WithAttributes(
		attribute.String("code.function.name", function), attribute.Int("code.line.number", line),
		attribute.String("code.file.path", path.Join("minikubelet/runtime/criserver", path.Base(file))),
	))
}

// traced gives a call a trace span, if its caller sent the one that it belongs to, or such calls begin traces. The function
// that it returns ends it.
func (s *Server) traced(ctx context.Context, method string) (context.Context, func(error)) {
	if parent := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(parent) > 0 {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": parent[0]})
	} else if !s.options.Traces {
		return ctx, func(error) {}
	}
	ctx, span := otel.Tracer("minikubelet").Start(ctx, strings.TrimPrefix(method, "/"), trace.WithSpanKind(trace.SpanKindServer))
	steps := &track{}
	ctx = context.WithValue(ctx, trackKey{}, steps)
	return ctx, func(err error) {
		steps.next(ctx, "answer end")
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}
