package criserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/namespaces"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/streaming"
)

// maxExecOutput bounds what ExecSync returns of each stream, so that both fit into a message.
const maxExecOutput = (maxMessage - 1<<20) / 2

// ExecSync runs a command in a container and returns its output. When it takes longer than
// asked for, every process of it is killed.
func (s *Server) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if seconds := r.GetTimeout(); seconds > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, inSeconds(seconds))
		defer cancel()
	}
	stdout, stderr := &bounded.Buffer{Limit: maxExecOutput}, &bounded.Buffer{Limit: maxExecOutput}
	code, err := s.execIn(ctx, r.GetContainerId(), monitor.Exec{Command: r.GetCmd(), Stdout: stdout, Stderr: stderr})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ExecSyncResponse{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitCode: code}, nil
}

// execIn runs a command in a container until it ends.
func (s *Server) execIn(ctx context.Context, id string, e monitor.Exec) (int32, error) {
	c, err := s.findRunning(id)
	if err != nil {
		return 0, err
	}
	if len(e.Command) == 0 {
		return 0, fmt.Errorf("%w: no command", oci.ErrInvalid)
	}
	// Not in the bundle, which a removal of the container may be emptying.
	e.ID, e.TempDir = c.ID, s.state("tmp")
	if c.task.runtime.Runc {
		e.Cgroup, e.Controller = s.cgroups().ForProcesses(oci.CgroupDir(c.Config.CgroupsPath))
	}
	code, err := c.task.runtime.Exec(ctx, e)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	return code, nil
}

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

// Attach prepares connecting with a container's stdio over a URL of the streaming server.
func (s *Server) Attach(_ context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if _, err := s.findRunning(r.GetContainerId()); err != nil {
		return nil, err
	}
	return s.streams.GetAttach(r)
}

// streams is what the streaming server calls back. It has methods of the CRI's names, too.
type streams struct{ *Server }

// Exec runs a command for a client of the streaming server.
func (s streams) Exec(ctx context.Context, id string, command []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	code, err := s.execIn(ctx, id, monitor.Exec{
		Command: command, Stdin: in, Stdout: writer(out), Stderr: writer(errOut), TTY: tty, Resize: resize, Hangup: streaming.ErrGone,
	})
	if err == nil && code != 0 {
		err = utilexec.CodeExitError{Err: fmt.Errorf("command ended with exit code %d", code), Code: int(code)}
	}
	return err
}

// Attach connects a client of the streaming server with the container's conmon.
func (s streams) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := s.findRunning(id)
	if err != nil {
		return err
	}
	return monitor.Attach(ctx, c.task.bundle, monitor.Streams{Stdin: in, Stdout: writer(out), Stderr: writer(errOut), Resize: resize})
}

// writer is nil for a client without that stream: an interface of a nil WriteCloser would not be.
func writer(w io.WriteCloser) io.Writer {
	if w == nil {
		return nil
	}
	return w
}

// PortForward prepares connecting with a port of a pod over a URL of the streaming server.
func (s *Server) PortForward(_ context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	sb, err := s.findSandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if !sb.ready() {
		return nil, fmt.Errorf("pod sandbox %s is not ready: %w", sb.ID, errPrecondition)
	}
	return s.streams.GetPortForward(r)
}

// PortForward connects a stream with a port on the pod's loopback interface.
func (s streams) PortForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	sb, err := s.findSandbox(id)
	if err != nil {
		return err
	}
	if port <= 0 || port > 65535 {
		return fmt.Errorf("forward port %d: there is no such port", port)
	}
	conn, err := dialPod(ctx, sb, int(port))
	if err != nil {
		return fmt.Errorf("forward port %d of pod sandbox %s: %w", port, sb.ID, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.Copy(conn, stream)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	}()
	_, err = io.Copy(stream, conn)
	// What the pod has to say ends the connection; the client's reader ends when the stream is closed.
	stream.Close()
	<-sent
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// dialPod connects from inside the pod's network namespace. A socket belongs to the namespace of the thread that makes it.
func dialPod(ctx context.Context, sb *sandbox, port int) (conn net.Conn, err error) {
	dial := func() error {
		dialer := net.Dialer{Timeout: 10 * time.Second}
		var failed []error
		for _, host := range []string{"127.0.0.1", "::1"} {
			if conn, err = dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port))); err == nil {
				return nil
			}
			failed = append(failed, err)
		}
		return errors.Join(failed...)
	}
	if sb.hostNetwork() {
		err = dial()
	} else {
		err = namespaces.Do(sb.netns(), dial)
	}
	return conn, err
}
