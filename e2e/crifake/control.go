package crifake

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// SetExit ends a running container with that code, as if its process had.
func (s *Server) SetExit(containerID string, code int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exit(containerID, code, "")
}

// SetExitReason is SetExit with a reason, such as OOMKilled.
func (s *Server) SetExitReason(containerID string, code int32, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exit(containerID, code, reason)
}

// KillSandbox ends a sandbox and its containers, as when its shim dies.
func (s *Server) KillSandbox(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopSandbox(id)
}

// ContainerID returns the newest container with that name, in any pod; "" if there is none.
func (s *Server) ContainerID(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(s.containers))) {
		if s.containers[id].status.Metadata.Name == name {
			return id
		}
	}
	return ""
}

// SandboxIDs returns all sandboxes, oldest first.
func (s *Server) SandboxIDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.sandboxes))
}

// Corrupt lets a test change what the runtime will say of a container, to say what it must not.
func (s *Server) Corrupt(containerID string, change func(*runtimeapi.ContainerStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[containerID]; c != nil {
		change(c.status)
	}
}

// CorruptSandbox is Corrupt for a sandbox.
func (s *Server) CorruptSandbox(id string, change func(*runtimeapi.PodSandboxStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.sandboxes[id]; b != nil {
		change(b.status)
	}
}

// SendEvent sends an event that the test made.
func (s *Server) SendEvent(event *runtimeapi.ContainerEventResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publish(event)
}

// exit ends a container that runs, or was created. Callers hold mu.
func (s *Server) exit(id string, code int32, reason string) {
	c := s.containers[id]
	if c == nil || c.status.State == runtimeapi.ContainerState_CONTAINER_EXITED || c.status.State == runtimeapi.ContainerState_CONTAINER_CREATED {
		return
	}
	if reason == "" {
		reason = "Completed"
		if code != 0 {
			reason = "Error"
		}
	}
	c.status.State, c.status.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, time.Now().UnixNano()
	c.status.ExitCode, c.status.Reason = code, reason
	s.send(id, c.sandboxID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// send publishes an event with the payload containerd gives it: the sandbox, and its containers. Callers hold mu.
func (s *Server) send(id, sandboxID string, kind runtimeapi.ContainerEventType) {
	event := &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
	if b := s.sandboxes[sandboxID]; b != nil {
		event.PodSandboxStatus = proto.CloneOf(b.status)
	}
	for _, cid := range slices.Sorted(maps.Keys(s.containers)) {
		if c := s.containers[cid]; c.sandboxID == sandboxID {
			event.ContainersStatuses = append(event.ContainersStatuses, proto.CloneOf(c.status))
		}
	}
	s.publish(event)
}

func (s *Server) publish(event *runtimeapi.ContainerEventResponse) {
	if s.muted {
		return
	}
	for c := range s.subscribers {
		select {
		case c <- event:
		default: // a test that reads no events
		}
	}
}

// GetContainerEvents sends events until the stream ends or is broken.
func (s *Server) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream runtimeapi.RuntimeService_GetContainerEventsServer) error {
	s.mu.Lock()
	if s.noEvents {
		s.mu.Unlock()
		return status.Error(codes.Unimplemented, "no events")
	}
	if s.endAtOnce {
		s.mu.Unlock()
		return nil
	}
	events := make(chan *runtimeapi.ContainerEventResponse, 1000)
	s.subscribers[events] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subscribers, events)
	}()
	for {
		select {
		case event, ok := <-events:
			if !ok {
				return nil
			}
			if err := stream.Send(event); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		}
	}
}
