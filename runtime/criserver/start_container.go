package criserver

import (
	"context"
	"fmt"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/store"
)

// StartContainer lets the first process of a created container go.
func (s *Server) StartContainer(ctx context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	c.ops.Lock()
	defer c.ops.Unlock()
	if phase := c.State().Phase; phase != store.ContainerCreated {
		return nil, fmt.Errorf("container %s is %s already: %w", c.ID, strings.ToLower(string(phase)), errPrecondition)
	}
	// The work goes on when the caller gives up: a start that was given up could have happened or not.
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), workTimeout)
	defer cancel()
	started := time.Now()
	if err := c.task.runtime.Start(work, c.ID, c.task.init); err != nil {
		return nil, s.startFailed(work, c, err)
	}
	tryUpdate(ctx, c.Record, func(state *store.ContainerState) {
		state.StartedAt = started
		if state.Phase == store.ContainerCreated { // and not ended already
			state.Phase = store.ContainerRunning
		}
	})
	klog.FromContext(ctx).V(2).Info("Started container", "container", c.ID)
	s.emit(runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, c.ID, c.Config.SandboxID)
	return &runtimeapi.StartContainerResponse{}, nil
}

// startFailed ends the container, with the reason for all to see in its status.
func (s *Server) startFailed(ctx context.Context, c *container, reason error) error {
	tryUpdate(ctx, c.Record, func(state *store.ContainerState) {
		state.Phase, state.ExitCode, state.FinishedAt = store.ContainerExited, 128, time.Now()
		state.Reason, state.Message = "StartError", reason.Error()
	})
	if err := s.end(ctx, c.task); err != nil {
		klog.FromContext(ctx).Error(err, "Could not end a container that did not start", "container", c.ID)
	}
	return fmt.Errorf("start container %s: %w", c.ID, reason)
}
