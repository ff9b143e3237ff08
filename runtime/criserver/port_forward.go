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

	"minikubelet/runtime/criserver/namespaces"
)

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

// dialPod connects from inside the pod's network namespace. A socket belongs to the namespace
// of the thread that makes it.
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
	if sb.netns() == "" {
		err = dial()
	} else {
		err = namespaces.Do(sb.netns(), dial)
	}
	return conn, err
}
