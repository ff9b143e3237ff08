package criserver

import (
	"context"
	"errors"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/store"
)

// UpdateContainerResources changes limits of a container that is created or runs.
func (s *Server) UpdateContainerResources(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	c.ops.Lock()
	defer c.ops.Unlock()
	if phase := c.State().Phase; phase != store.ContainerCreated && phase != store.ContainerRunning {
		return nil, fmt.Errorf("container %s has ended: %w", c.ID, errPrecondition)
	}
	if r.GetLinux() == nil {
		return &runtimeapi.UpdateContainerResourcesResponse{}, nil
	}
	if err := c.task.runtime.Update(ctx, c.ID, oci.Resources(r.GetLinux(), s.machine)); err != nil {
		return nil, fmt.Errorf("update resources of container %s: %w", c.ID, err)
	}
	err = c.Update(func(state *store.ContainerState) { state.Resources = oci.MergeResources(state.Resources, r.GetLinux()) })
	return &runtimeapi.UpdateContainerResourcesResponse{}, err
}

// UpdatePodSandboxResources takes note of the pod's resources: its cgroup is the kubelet's, and
// the sandbox has no process that would need limits.
func (s *Server) UpdatePodSandboxResources(_ context.Context, r *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	sb, err := s.findSandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	err = sb.Update(func(state *store.SandboxState) { state.Resources = r.GetResources() })
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, err
}

// ReopenContainerLog lets a running container's log go to a new file, after the old one was renamed.
func (s *Server) ReopenContainerLog(ctx context.Context, r *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	c, err := s.findRunning(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if c.Config.LogPath == "" {
		return nil, fmt.Errorf("container %s has no log: %w", c.ID, errPrecondition)
	}
	if err := monitor.ReopenLog(ctx, c.task.bundle, c.Config.LogPath); err != nil {
		return nil, fmt.Errorf("reopen log of container %s: %w", c.ID, err)
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}

// CheckpointContainer needs CRIU, which is not supported.
func (s *Server) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	return nil, fmt.Errorf("checkpoint container: %w", errors.ErrUnsupported)
}

// CheckpointPod needs CRIU, which is not supported.
func (s *Server) CheckpointPod(context.Context, *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	return nil, fmt.Errorf("checkpoint pod: %w", errors.ErrUnsupported)
}

// RestorePod needs CRIU, which is not supported.
func (s *Server) RestorePod(context.Context, *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return nil, fmt.Errorf("restore pod: %w", errors.ErrUnsupported)
}
