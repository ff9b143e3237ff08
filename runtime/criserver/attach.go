package criserver

import (
	"context"
	"io"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"minikubelet/runtime/criserver/monitor"
)

// Attach prepares connecting with a container's stdio over a URL of the streaming server.
func (s *Server) Attach(_ context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if _, err := s.findRunning(r.GetContainerId()); err != nil {
		return nil, err
	}
	return s.streams.GetAttach(r)
}

// Attach connects a client of the streaming server with the container's conmon.
func (s streams) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := s.findRunning(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := monitor.Streams{Stdin: in, Resize: sizes(ctx, resize)}
	if out != nil {
		client.Stdout = out
	}
	if errOut != nil {
		client.Stderr = errOut
	}
	return monitor.Attach(ctx, c.task.bundle, client)
}
