package criserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
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
