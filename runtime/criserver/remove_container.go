package criserver

import (
	"context"
	"errors"
	"fmt"
	"os"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RemoveContainer removes a container, killing it first if it runs. One that is not there is no error.
func (s *Server) RemoveContainer(ctx context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if errors.Is(err, errNotFound) {
		return &runtimeapi.RemoveContainerResponse{}, nil
	} else if err != nil {
		return nil, err
	}
	return &runtimeapi.RemoveContainerResponse{}, s.removeContainer(ctx, c)
}

func (s *Server) removeContainer(ctx context.Context, c *container) error {
	if err := c.kill(ctx); err != nil {
		return err
	}
	c.ops.Lock()
	defer c.ops.Unlock()
	if err := s.unmountAll(c); err != nil {
		return err
	}
	if err := os.RemoveAll(c.task.bundle); err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	// The log stays: the kubelet reads it until it removes the pod's directory.
	if err := c.Remove(); err != nil {
		return err
	}
	s.containers.Delete(c.ID)
	s.containers.Release(c.Config.Name, c.ID)
	s.emit(runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, c.ID, c.Config.SandboxID)
	return nil
}
