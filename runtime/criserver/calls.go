package criserver

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/store"
)

var (
	errNotFound      = errors.New("not found")
	errAlreadyExists = errors.New("already exists")
	errPrecondition  = errors.New("not possible now")
)

// codesOf are the gRPC codes of errors; the first match counts.
var codesOf = []struct {
	err  error
	code codes.Code
}{
	{errNotFound, codes.NotFound},
	{images.ErrNotFound, codes.NotFound},
	{images.ErrInvalidReference, codes.InvalidArgument},
	{images.ErrUnauthorized, codes.PermissionDenied},
	{oci.ErrInvalid, codes.InvalidArgument},
	{errAlreadyExists, codes.AlreadyExists},
	{errPrecondition, codes.FailedPrecondition},
	{monitor.ErrTimeout, codes.DeadlineExceeded},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
	{errors.ErrUnsupported, codes.Unimplemented},
}

// toStatus gives an error the code that callers of the CRI look at.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	for _, known := range codesOf {
		if errors.Is(err, known.err) {
			return status.Error(known.code, err.Error())
		}
	}
	return status.Error(codes.Unknown, err.Error())
}

// unary runs around every method: it logs it and translates its error.
func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	begin := time.Now()
	ctx, end := s.traced(ctx, info.FullMethod)
	response, err := handler(ctx, request)
	end(err)
	s.logCall(ctx, info.FullMethod, begin, err)
	return response, toStatus(err)
}

// stream is unary for methods that answer with a stream.
func (s *Server) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	begin := time.Now()
	err := handler(server, stream)
	s.logCall(stream.Context(), info.FullMethod, begin, err)
	return toStatus(err)
}

func (s *Server) logCall(ctx context.Context, method string, begin time.Time, err error) {
	logger := klog.FromContext(ctx)
	name := method[strings.LastIndexByte(method, '/')+1:]
	switch code := status.Code(toStatus(err)); code {
	case codes.OK:
		logger.V(4).Info("Answered", "method", name, "took", time.Since(begin))
	case codes.NotFound, codes.Canceled:
		logger.V(4).Info("Answered", "method", name, "took", time.Since(begin), "err", err)
	default:
		logger.Error(err, "Call failed", "method", name, "took", time.Since(begin))
	}
}

// findSandbox finds a sandbox by its ID or the beginning of it.
func (s *Server) findSandbox(id string) (*sandbox, error) { return find(s.sandboxes, "sandbox", id) }

// findContainer finds a container by its ID or the beginning of it.
func (s *Server) findContainer(id string) (*container, error) {
	return find(s.containers, "container", id)
}

func find[T any](index *store.Index[T], what, id string) (T, error) {
	found, ok, err := index.Get(id)
	if err != nil {
		return found, fmt.Errorf("find %s: %w: %w", what, oci.ErrInvalid, err)
	}
	if !ok {
		return found, fmt.Errorf("%s %q: %w", what, id, errNotFound)
	}
	return found, nil
}

// findRunning is findContainer for what only a running container can do.
func (s *Server) findRunning(id string) (*container, error) {
	c, err := s.findContainer(id)
	if err != nil {
		return nil, err
	}
	return c, c.running()
}

// track is a series of steps, each of which ends when the next begins. A call has one, and so has each goroutine of the call
// that takes steps while the call takes others.
type track struct {
	mu   sync.Mutex
	span trace.Span // of the step that goes on; nil for none
}

type trackKey struct{}

// branch gives the context of such a goroutine its track.
func branch(ctx context.Context) context.Context {
	if ctx.Value(trackKey{}) == nil {
		return ctx
	}
	return context.WithValue(ctx, trackKey{}, &track{})
}

// step ends the step before and begins one of making or removing a sandbox or container; a name with " end" begins none. Each
// is a trace span, if the call has one.
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

// traced gives a call a trace span: below that of its caller, if it sent one, or else the first of a trace, if calls begin
// traces. The function that it returns ends the span.
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
			span.SetStatus(otelcodes.Error, err.Error())
		}
		span.End()
	}
}
