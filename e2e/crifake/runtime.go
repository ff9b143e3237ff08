package crifake

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type sandbox struct {
	status *runtimeapi.PodSandboxStatus
	config *runtimeapi.PodSandboxConfig
}

type container struct {
	status    *runtimeapi.ContainerStatus
	sandboxID string
	config    *runtimeapi.ContainerConfig
}

// Version names the fake.
func (s *Server) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "crifake", RuntimeVersion: "v1.0.0", RuntimeApiVersion: "v1"}, nil
}

// Status returns the conditions of SetCondition.
func (s *Server) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var conditions []*runtimeapi.RuntimeCondition
	for _, name := range slices.Sorted(maps.Keys(s.conditions)) {
		conditions = append(conditions, proto.CloneOf(s.conditions[name]))
	}
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: conditions}}, nil
}

// RuntimeConfig names the cgroupfs driver.
func (s *Server) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS}}, nil
}

// UpdateRuntimeConfig accepts anything.
func (s *Server) UpdateRuntimeConfig(context.Context, *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}

// id returns the next ID, padded so that IDs look like a runtime's. Callers hold mu.
func (s *Server) id(kind string) string {
	s.next++
	return fmt.Sprintf("%s%060x", kind, s.next)
}

// RunPodSandbox makes a ready sandbox, with an IP unless it is on the host's network. As with a real runtime a name
// and attempt that exist already are refused.
func (s *Server) RunPodSandbox(_ context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	metadata := r.GetConfig().GetMetadata()
	if metadata == nil {
		return nil, status.Error(codes.InvalidArgument, "sandbox config must include metadata")
	}
	for id, other := range s.sandboxes {
		if proto.Equal(other.config.Metadata, metadata) {
			return nil, status.Errorf(codes.AlreadyExists, "sandbox name %v is reserved for %q", metadata, id)
		}
	}
	id := s.id("50")
	network := &runtimeapi.PodSandboxNetworkStatus{}
	options := r.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if options.GetNetwork() != runtimeapi.NamespaceMode_NODE {
		network.Ip = fmt.Sprintf("10.88.%d.%d", s.next/250, s.next%250+2)
	}
	s.sandboxes[id] = &sandbox{config: proto.CloneOf(r.Config), status: &runtimeapi.PodSandboxStatus{
		Id: id, Metadata: metadata, State: runtimeapi.PodSandboxState_SANDBOX_READY, CreatedAt: time.Now().UnixNano(),
		Network: network, Labels: r.Config.Labels, Annotations: r.Config.Annotations, RuntimeHandler: r.RuntimeHandler,
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: options}},
	}}
	s.send(id, id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	s.send(id, id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// StopPodSandbox ends the sandbox and its containers. One that does not exist is fine.
func (s *Server) StopPodSandbox(_ context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopSandbox(r.PodSandboxId)
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (s *Server) stopSandbox(id string) {
	box := s.sandboxes[id]
	if box == nil {
		return
	}
	for cid, c := range s.containers {
		if c.sandboxID == id {
			s.exit(cid, 137, "")
		}
	}
	if box.status.State == runtimeapi.PodSandboxState_SANDBOX_READY {
		box.status.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		box.status.Network = &runtimeapi.PodSandboxNetworkStatus{}
		s.send(id, id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
}

// RemovePodSandbox removes a sandbox and its containers.
func (s *Server) RemovePodSandbox(_ context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandboxes[r.PodSandboxId] == nil {
		return &runtimeapi.RemovePodSandboxResponse{}, nil
	}
	s.stopSandbox(r.PodSandboxId)
	for id, c := range s.containers {
		if c.sandboxID == r.PodSandboxId {
			s.remove(id)
		}
	}
	delete(s.sandboxes, r.PodSandboxId)
	s.send(r.PodSandboxId, r.PodSandboxId, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// PodSandboxStatus answers as containerd does, without the containers.
func (s *Server) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	box := s.sandboxes[r.PodSandboxId]
	if box == nil {
		return nil, notFound("sandbox", r.PodSandboxId)
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: proto.CloneOf(box.status)}, nil
}

// ListPodSandbox filters by ID, state and labels.
func (s *Server) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, id := range slices.Sorted(maps.Keys(s.sandboxes)) {
		b, f := s.sandboxes[id].status, r.GetFilter()
		if f.GetId() != "" && f.Id != id || f.GetState() != nil && f.State.State != b.State || !matches(f.GetLabelSelector(), b.Labels) {
			continue
		}
		out.Items = append(out.Items, proto.CloneOf(&runtimeapi.PodSandbox{
			Id: id, Metadata: b.Metadata, State: b.State, CreatedAt: b.CreatedAt, Labels: b.Labels, Annotations: b.Annotations, RuntimeHandler: b.RuntimeHandler,
		}))
	}
	return out, nil
}

// CreateContainer needs a ready sandbox and an image that is there. As with a real runtime a name and attempt that the pod has
// already, in whichever sandbox, are refused.
func (s *Server) CreateContainer(_ context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	box, metadata := s.sandboxes[r.PodSandboxId], r.GetConfig().GetMetadata()
	switch {
	case box == nil:
		return nil, notFound("sandbox", r.PodSandboxId)
	case box.status.State != runtimeapi.PodSandboxState_SANDBOX_READY:
		return nil, status.Errorf(codes.Unknown, "sandbox container %q is not running", r.PodSandboxId)
	case metadata == nil:
		return nil, status.Error(codes.InvalidArgument, "container config must include metadata")
	}
	for id, c := range s.containers {
		if s.sandboxes[c.sandboxID].config.GetMetadata().GetUid() == box.config.GetMetadata().GetUid() && proto.Equal(c.config.Metadata, metadata) {
			return nil, status.Errorf(codes.AlreadyExists, "container name %v is reserved for %q", metadata, id)
		}
	}
	image := s.image(r.Config.GetImage().GetImage())
	if image == nil {
		return nil, notFound("image", r.Config.GetImage().GetImage())
	}
	id := s.id("c0")
	config := proto.CloneOf(r.Config)
	s.containers[id] = &container{config: config, sandboxID: r.PodSandboxId, status: &runtimeapi.ContainerStatus{
		Id: id, Metadata: config.Metadata, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(),
		Image: &runtimeapi.ImageSpec{Image: firstTag(image)}, ImageRef: image.RepoDigests[0], ImageId: image.Id,
		Labels: config.Labels, Annotations: config.Annotations, Mounts: config.Mounts,
		LogPath:    r.GetSandboxConfig().GetLogDirectory() + "/" + config.LogPath,
		Resources:  &runtimeapi.ContainerResources{Linux: config.GetLinux().GetResources()},
		StopSignal: runtimeapi.Signal_SIGNAL_SIGTERM,
	}}
	s.send(id, r.PodSandboxId, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// StartContainer starts a created container.
func (s *Server) StartContainer(_ context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[r.ContainerId]
	if c == nil {
		return nil, notFound("container", r.ContainerId)
	}
	if c.status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is in state %s", r.ContainerId, c.status.State)
	}
	c.status.State, c.status.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	s.send(r.ContainerId, c.sandboxID, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &runtimeapi.StartContainerResponse{}, nil
}

// StopContainer ends a container with the code of TERM, or of KILL when it gets no time. One that does not exist is
// fine.
func (s *Server) StopContainer(_ context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	code := int32(143)
	if r.Timeout <= 0 {
		code = 137
	}
	s.exit(r.ContainerId, code, "")
	return &runtimeapi.StopContainerResponse{}, nil
}

// RemoveContainer removes a container, running or not. One that does not exist is fine.
func (s *Server) RemoveContainer(_ context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(r.ContainerId)
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (s *Server) remove(id string) {
	c := s.containers[id]
	if c == nil {
		return
	}
	s.exit(id, 137, "")
	delete(s.containers, id)
	s.send(id, c.sandboxID, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
}

// ListContainers filters by ID, sandbox, state and labels.
func (s *Server) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	for _, id := range slices.Sorted(maps.Keys(s.containers)) {
		c, f := s.containers[id], r.GetFilter()
		if f.GetId() != "" && f.Id != id || f.GetPodSandboxId() != "" && f.PodSandboxId != c.sandboxID ||
			f.GetState() != nil && f.State.State != c.status.State || !matches(f.GetLabelSelector(), c.status.Labels) {
			continue
		}
		out.Containers = append(out.Containers, proto.CloneOf(&runtimeapi.Container{
			Id: id, PodSandboxId: c.sandboxID, Metadata: c.status.Metadata, Image: c.config.Image, ImageRef: c.status.ImageId, ImageId: c.status.ImageId,
			State: c.status.State, CreatedAt: c.status.CreatedAt, Labels: c.status.Labels, Annotations: c.status.Annotations,
		}))
	}
	return out, nil
}

// ContainerStatus returns the full status.
func (s *Server) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[r.ContainerId]
	if c == nil {
		return nil, notFound("container", r.ContainerId)
	}
	return &runtimeapi.ContainerStatusResponse{Status: proto.CloneOf(c.status)}, nil
}

// UpdateContainerResources sets the resources of the status.
func (s *Server) UpdateContainerResources(_ context.Context, r *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[r.ContainerId]
	if c == nil {
		return nil, notFound("container", r.ContainerId)
	}
	c.status.Resources = &runtimeapi.ContainerResources{Linux: r.Linux}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// ReopenContainerLog asks Server.OnReopen.
func (s *Server) ReopenContainerLog(_ context.Context, r *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	if s.OnReopen != nil {
		if err := s.OnReopen(r.ContainerId); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}

// ExecSync asks Server.OnExec.
func (s *Server) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	s.mu.Lock()
	c := s.containers[r.ContainerId]
	running := c != nil && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	s.mu.Unlock()
	switch {
	case c == nil:
		return nil, notFound("container", r.ContainerId)
	case !running:
		return nil, status.Errorf(codes.Unknown, "container %q is not running", r.ContainerId)
	case s.OnExec == nil:
		return &runtimeapi.ExecSyncResponse{}, nil
	}
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(min(r.Timeout, math.MaxInt32))*time.Second)
		defer cancel()
	}
	stdout, code := s.OnExec(ctx, r.ContainerId, r.Cmd)
	if ctx.Err() != nil {
		return nil, status.Errorf(codes.DeadlineExceeded, "failed to exec in container: timeout %ds exceeded: %v", r.Timeout, ctx.Err())
	}
	return &runtimeapi.ExecSyncResponse{Stdout: []byte(stdout), ExitCode: code}, nil
}

func matches(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}
