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
	sb.ops.Lock()
	wasReady := sb.ready()
	err := sb.Update(func(state *store.SandboxState) { state.Phase = store.SandboxStopped })
	sb.ops.Unlock()
	if err != nil {
		return err
	}
	// 2. Kill its containers: whoever wants them to end well stops them first.
	containers := s.containersOf(sb.ID)
	group := errgroup.Group{}
	for _, c := range containers {
		group.Go(func() error { return c.task.kill(ctx) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("stop containers of sandbox: %w", err)
	}
	// 3. Disconnect the network, end the pause process, let the namespaces go. Meanwhile the OCI
	// runtime forgets the containers, and their cgroups go.
	sb.ops.Lock()
	defer sb.ops.Unlock()
	group = errgroup.Group{}
	group.Go(func() error { return s.takeDown(ctx, sb) })
	for _, c := range containers {
		group.Go(func() error { return c.task.waitCleaned(ctx) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("stop sandbox: %w", err)
	}
	if wasReady {
		s.emit(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, sb.ID, sb.ID)
	}
	return nil
}
