package criserver

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/store"
)

// StopPodSandbox ends what runs in a sandbox and gives its network back. One that is not there
// or stopped already is no error.
func (s *Server) StopPodSandbox(ctx context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	sb, err := s.findSandbox(r.GetPodSandboxId())
	if errors.Is(err, errNotFound) {
		return &runtimeapi.StopPodSandboxResponse{}, nil
	} else if err != nil {
		return nil, err
	}
	return &runtimeapi.StopPodSandboxResponse{}, s.stopSandbox(ctx, sb)
}

func (s *Server) stopSandbox(ctx context.Context, sb *sandbox) error {
	// 1. No container may be made in it from now on.
	s.step(ctx, "StopPodSandbox 1")
	sb.ops.Lock()
	wasReady := sb.ready()
	tryUpdate(ctx, sb.Record, func(state *store.SandboxState) { state.Phase = store.SandboxStopped })
	sb.ops.Unlock()
	// 2. Kill its containers without a grace period: the kubelet has called StopContainer for those that need one.
	s.step(ctx, "StopPodSandbox 2")
	containers := s.containersOf(sb.ID)
	group := errgroup.Group{}
	for _, c := range containers {
		group.Go(func() error { return c.task.kill(ctx) })
	}
	for _, c := range s.unmade.All() {
		if c.Config.SandboxID == sb.ID {
			group.Go(func() error { return s.destroyContainer(ctx, c) })
		}
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("stop containers of sandbox: %w", err)
	}
	// 3. Disconnect the network, end the pause process, let the namespaces go. Meanwhile the OCI
	// runtime forgets the containers, and their cgroups go.
	s.step(ctx, "StopPodSandbox 3")
	sb.ops.Lock()
	defer sb.ops.Unlock()
	group = errgroup.Group{}
	group.Go(func() error { return s.takeDown(ctx, sb) })
	for _, c := range containers {
		group.Go(func() error { return c.task.delete(ctx) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("stop sandbox: %w", err)
	}
	s.step(ctx, "StopPodSandbox end")
	if wasReady {
		s.emit(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, sb.ID, sb.ID)
	}
	return nil
}

// RemovePodSandbox removes a sandbox with all its containers. One that is not there is no error.
func (s *Server) RemovePodSandbox(ctx context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	sb, err := s.findSandbox(r.GetPodSandboxId())
	if errors.Is(err, errNotFound) {
		return &runtimeapi.RemovePodSandboxResponse{}, nil
	} else if err != nil {
		return nil, err
	}
	// 1. Stop it, if that was not done.
	if err := s.stopSandbox(ctx, sb); err != nil {
		return nil, err
	}
	// 2. Remove its containers.
	s.step(ctx, "RemovePodSandbox 2")
	group := errgroup.Group{}
	for _, c := range s.containersOf(sb.ID) {
		group.Go(func() error { return s.destroyContainer(ctx, c) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	// 3. Remove its files, and last its record and its name.
	s.step(ctx, "RemovePodSandbox 3")
	if err := s.destroySandbox(ctx, sb); err != nil {
		return nil, err
	}
	s.step(ctx, "RemovePodSandbox end")
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}
