package criserver

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	maxListeners  = 100
	maxUnreceived = 1000 // events that a listener may be behind
)

// broker hands events to those who listen.
type broker struct {
	mu        sync.Mutex
	listeners map[chan *runtimeapi.ContainerEventResponse]bool // nil once the server ends
}

func newBroker() *broker {
	return &broker{listeners: map[chan *runtimeapi.ContainerEventResponse]bool{}}
}

func (b *broker) listen() (chan *runtimeapi.ContainerEventResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listeners == nil {
		return nil, status.Error(codes.Unavailable, "the CRI server ends")
	}
	if len(b.listeners) >= maxListeners {
		return nil, status.Errorf(codes.ResourceExhausted, "%d listen for events already", maxListeners)
	}
	listener := make(chan *runtimeapi.ContainerEventResponse, maxUnreceived)
	b.listeners[listener] = true
	return listener, nil
}

// drop cuts a listener off. The caller holds b.mu.
func (b *broker) drop(listener chan *runtimeapi.ContainerEventResponse) {
	if b.listeners[listener] {
		delete(b.listeners, listener)
		close(listener)
	}
}

func (b *broker) leave(listener chan *runtimeapi.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop(listener)
}

// send never waits: a listener that is too far behind is cut off, and has to list what there is.
func (b *broker) send(event *runtimeapi.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for listener := range b.listeners {
		select {
		case listener <- event:
		default:
			b.drop(listener)
		}
	}
}

func (b *broker) idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.listeners) == 0
}

func (b *broker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for listener := range b.listeners {
		b.drop(listener)
	}
	b.listeners = nil
}

// GetContainerEvents sends what happens to sandboxes and containers from now on.
func (s *Server) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream runtimeapi.RuntimeService_GetContainerEventsServer) error {
	listener, err := s.events.listen()
	if err != nil {
		return err
	}
	defer s.events.leave(listener)
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case event, ok := <-listener:
			if !ok {
				return status.Error(codes.Unavailable, "events were lost or the CRI server ends: list and listen again")
			}
			if err := stream.Send(event); err != nil {
				return fmt.Errorf("send event: %w", err)
			}
		}
	}
}

// emit tells what happened to a container, or to the sandbox itself, with the state of the pod.
func (s *Server) emit(kind runtimeapi.ContainerEventType, id, sandboxID string) {
	if s.events.idle() {
		return
	}
	event := &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
	if sb, ok, _ := s.sandboxes.Get(sandboxID); ok {
		event.PodSandboxStatus = sb.status()
		event.ContainersStatuses = s.statusesOf(sb.ID)
	}
	s.events.send(event)
}
