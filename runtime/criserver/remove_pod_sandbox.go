package criserver

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

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
