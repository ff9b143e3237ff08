// Package crifake is a container runtime in memory, for tests. It keeps sandboxes, containers and images as the CRI
// describes them, sends the events containerd sends, and lets a test delay calls, fail them and end containers.
package crifake

import (
	"context"
	"net"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
)

// Server is the fake runtime. All its methods may be called at any time from any goroutine.
type Server struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	// OnExec answers ExecSync, when set before the first call; exit code 0 and no output otherwise.
	OnExec func(ctx context.Context, containerID string, command []string) (stdout string, exitCode int32)

	// OnReopen answers ReopenContainerLog, when set before the first call; it succeeds otherwise.
	OnReopen func(containerID string) error
	// MemoryUsage is what ContainerStats says of every container, in bytes; set it while nobody calls.
	MemoryUsage uint64

	socket string

	mu          sync.Mutex
	grpc        *grpc.Server
	next        int // number of the next object
	sandboxes   map[string]*sandbox
	containers  map[string]*container
	images      map[string]*runtimeapi.Image // by normalised reference
	subscribers map[chan *runtimeapi.ContainerEventResponse]struct{}
	noEvents    bool
	endAtOnce   bool
	muted       bool
	calls       []string
	requests    []any
	failures    map[string][]error
	lost        map[string]int
	delays      map[string]time.Duration
	detached    map[string]bool
	conditions  map[string]*runtimeapi.RuntimeCondition
}

// Start returns a server that listens on a unix socket until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	s := New()
	s.socket = filepath.Join(t.TempDir(), "cri.sock")
	if err := s.Resume(); err != nil {
		t.Fatalf("start the fake runtime: %v", err)
	}
	t.Cleanup(s.Stop)
	return s
}

// New returns a server without a socket, for Direct: nothing leaves the goroutines of the test, as testing/synctest
// needs it.
func New() *Server {
	return &Server{
		sandboxes:   map[string]*sandbox{},
		containers:  map[string]*container{},
		images:      map[string]*runtimeapi.Image{},
		subscribers: map[chan *runtimeapi.ContainerEventResponse]struct{}{},
		failures:    map[string][]error{},
		lost:        map[string]int{},
		delays:      map[string]time.Duration{},
		detached:    map[string]bool{},
		conditions: map[string]*runtimeapi.RuntimeCondition{
			runtimeapi.RuntimeReady: {Type: runtimeapi.RuntimeReady, Status: true},
			runtimeapi.NetworkReady: {Type: runtimeapi.NetworkReady, Status: true},
		},
	}
}

// Endpoint returns the unix:// address of the socket.
func (s *Server) Endpoint() string { return "unix://" + s.socket }

// Client returns a client over the socket; it is closed when the test ends.
func (s *Server) Client(t testing.TB) *cri.Client {
	t.Helper()
	client, err := cri.Dial(cri.Options{Endpoint: s.Endpoint(), Timeout: time.Minute})
	if err != nil {
		t.Fatalf("dial the fake runtime: %v", err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Stop takes the socket away as when the runtime ends. What it runs stays.
func (s *Server) Stop() {
	s.mu.Lock()
	server := s.grpc
	s.grpc = nil
	s.closeSubscribers()
	s.mu.Unlock()
	if server != nil {
		server.Stop()
	}
}

// Resume brings the socket back.
func (s *Server) Resume() error {
	listener, err := net.Listen("unix", s.socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(s.intercept), grpc.StreamInterceptor(s.interceptStream))
	runtimeapi.RegisterRuntimeServiceServer(server, s)
	runtimeapi.RegisterImageServiceServer(server, s)
	s.mu.Lock()
	s.grpc = server
	s.mu.Unlock()
	go func() { _ = server.Serve(listener) }()
	return nil
}

// FailNext makes the next call of the method ("RunPodSandbox") return err. Calls queue up: n times fails n calls. An
// error that is no gRPC status becomes one with code Unknown.
func (s *Server) FailNext(method string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures[method] = append(s.failures[method], err)
}

// LoseNext makes the next call of the method that does not fail lose its answer: it is done, and returns an error. Calls queue up.
func (s *Server) LoseNext(method string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[method]++
}

// Delay makes every call of the method wait before it does anything, or until its deadline.
func (s *Server) Delay(method string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delays[method] = d
}

// Detach makes calls of the method that wait for a Delay go on when their caller stops waiting, as those of a real runtime may.
func (s *Server) Detach(method string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detached[method] = true
}

// Calls returns the methods called so far, in order.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Count returns how often a method was called.
func (s *Server) Count(method string) int {
	n := 0
	for _, call := range s.Calls() {
		if call == method {
			n++
		}
	}
	return n
}

// ResetCalls forgets the calls so far.
func (s *Server) ResetCalls() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls, s.requests = nil, nil
}

// Requests returns the requests of type T so far, in order, as in Requests[*runtimeapi.RunPodSandboxRequest](server).
func Requests[T any](s *Server) []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []T
	for _, request := range s.requests {
		if r, ok := request.(T); ok {
			out = append(out, r)
		}
	}
	return out
}

// SetCondition sets a condition of the runtime, such as runtimeapi.NetworkReady; both are true at first.
func (s *Server) SetCondition(name string, ok bool, reason, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conditions[name] = &runtimeapi.RuntimeCondition{Type: name, Status: ok, Reason: reason, Message: message}
}

// DisableEvents makes GetContainerEvents Unimplemented and ends the streams there are.
func (s *Server) DisableEvents() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noEvents = true
	s.closeSubscribers()
}

// EndEventsAtOnce makes GetContainerEvents end without an error as soon as it is called, as CRI-O does when it has no events.
func (s *Server) EndEventsAtOnce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endAtOnce = true
	s.closeSubscribers()
}

// MuteEvents loses all events while on, without ending the streams.
func (s *Server) MuteEvents(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.muted = on
}

// BreakEvents ends the event streams; new ones can be opened.
func (s *Server) BreakEvents() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeSubscribers()
}

// Subscribers returns how many event streams are open.
func (s *Server) Subscribers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.subscribers)
}

func (s *Server) closeSubscribers() {
	for c := range s.subscribers {
		close(c)
	}
	clear(s.subscribers)
}

func (s *Server) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	method, began := path.Base(info.FullMethod), time.Now()
	if err := s.enter(ctx, method, request); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if left := s.delays[method] - time.Since(began); ctx.Err() != nil && s.detached[method] && left > 0 {
			time.AfterFunc(left, func() { _, _ = handler(context.WithoutCancel(ctx), request) })
		}
		return nil, err
	}
	answer, err := handler(ctx, request)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.lost[method] > 0 {
		s.lost[method]--
		return nil, status.Errorf(codes.Unavailable, "the answer of %s is lost", method)
	}
	return answer, err
}

func (s *Server) interceptStream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := s.enter(stream.Context(), path.Base(info.FullMethod), nil); err != nil {
		return err
	}
	return handler(server, stream)
}

// enter notes the call, waits its delay and returns its failure.
func (s *Server) enter(ctx context.Context, method string, request any) error {
	s.mu.Lock()
	s.calls = append(s.calls, method)
	if request != nil {
		s.requests = append(s.requests, request)
	}
	delay := s.delays[method]
	var failure error
	if queue := s.failures[method]; len(queue) > 0 {
		failure, s.failures[method] = queue[0], queue[1:]
	}
	s.mu.Unlock()
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	return failure
}

func notFound(what, id string) error {
	return status.Errorf(codes.NotFound, "%s %q: not found", what, id)
}
