package criserver

import (
	"context"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

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
	err = sb.Update(func(state *store.SandboxState) { state.Overhead, state.Resources = r.GetOverhead(), r.GetResources() })
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, err
}
