package criserver

import (
	"context"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/monitor"
)

// ReopenContainerLog has a running container's log go to a new file, after the old one was renamed.
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
