package criserver

import (
	"context"
	"errors"
	"math"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/signal"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/store"
)

// StopContainer asks a container to end, and kills it when it has not by the timeout. One that is not there or has ended is
// no error. Of several calls at once each keeps its own time: the shortest wins.
func (s *Server) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if errors.Is(err, errNotFound) {
		return &runtimeapi.StopContainerResponse{}, nil
	} else if err != nil {
		return nil, err
	}
	return &runtimeapi.StopContainerResponse{}, c.stop(ctx, inSeconds(r.GetTimeout()))
}

// inSeconds is the longest duration there is for a time that is longer.
func inSeconds(n int64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/int64(time.Second))) * time.Second
}

func (c *container) stop(ctx context.Context, grace time.Duration) error {
	if c.task.hasEnded() {
		return nil
	}
	// One that was never started could not understand.
	if grace > 0 && c.State().Phase == store.ContainerRunning {
		number, ok := signalNumber(c.Config.StopSignal)
		if !ok {
			number = syscall.SIGTERM
		}
		if err := c.task.signal(number); err != nil {
			return err
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-c.task.ended.Done():
			return nil // its cgroup goes in a moment; StopPodSandbox waits for that
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
	return c.task.kill(ctx)
}

// RemoveContainer removes a container, killing it first if it runs. One that is not there is no error.
func (s *Server) RemoveContainer(ctx context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if errors.Is(err, errNotFound) {
		return &runtimeapi.RemoveContainerResponse{}, nil
	} else if err != nil {
		return nil, err
	}
	s.step(ctx, "RemoveContainer 1")
	return &runtimeapi.RemoveContainerResponse{}, s.destroyContainer(ctx, c)
}

// stopSignal is the container's, or the image's, or SIGTERM.
func stopSignal(config *runtimeapi.ContainerConfig, image *images.Image) string {
	if signal := config.GetStopSignal(); signal != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return strings.TrimPrefix(signal.String(), "SIGNAL_")
	}
	if _, ok := signalNumber(image.Config.Config.StopSignal); ok {
		return image.Config.Config.StopSignal
	}
	return "SIGTERM"
}

// signalNumber reads SIGTERM, TERM, SIGRTMIN+3, the CRI's SIGRTMINPLUS3, or 15.
func signalNumber(name string) (syscall.Signal, bool) {
	name = strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(strings.ToUpper(strings.TrimSpace(name)))
	number, err := signal.ParseSignal(name)
	return number, err == nil && number > 0 && number < 65
}
