package criserver

import (
	"context"
	"fmt"
	"io"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/streaming"
)

// Exec prepares running a command in a container over a URL of the streaming server.
func (s *Server) Exec(_ context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if _, err := s.findRunning(r.GetContainerId()); err != nil {
		return nil, err
	}
	if len(r.GetCmd()) == 0 {
		return nil, fmt.Errorf("%w: no command", oci.ErrInvalid)
	}
	return s.streams.GetExec(r)
}

// streams is what the streaming server calls back. It has methods of the CRI's names, too.
type streams struct{ *Server }

// Exec runs a command for a client of the streaming server.
func (s streams) Exec(ctx context.Context, id string, command []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := s.findRunning(id)
	if err != nil {
		return err
	}
	e := s.execIn(c, command)
	e.Stdin, e.TTY, e.Resize, e.Hangup = in, tty, sizes(ctx, resize), streaming.ErrGone
	// An interface of a nil writer is not nil.
	if out != nil {
		e.Stdout = out
	}
	if errOut != nil {
		e.Stderr = errOut
	}
	code, err := c.task.runtime.Exec(ctx, e)
	if err != nil {
		return fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command ended with exit code %d", code), Code: int(code)}
	}
	return nil
}

// sizes translates sizes of terminals until there are no more.
func sizes(ctx context.Context, from <-chan remotecommand.TerminalSize) <-chan monitor.Size {
	if from == nil {
		return nil
	}
	to := make(chan monitor.Size)
	go func() {
		defer close(to)
		for size := range from {
			select {
			case to <- monitor.Size{Width: size.Width, Height: size.Height}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return to
}
