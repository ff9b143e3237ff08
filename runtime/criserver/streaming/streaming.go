// Package streaming serves what exec, attach and port-forward of the CRI answer with: URLs on
// the loopback interface that work once, for the first client that connects in time.
package streaming

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"k8s.io/cri-streaming/pkg/streaming"
)

// Runtime is what connects clients with containers and pods. The contexts that it gets end with ErrGone when the
// client has gone.
type Runtime = streaming.Runtime

// Server hands out URLs and serves them.
type Server struct {
	streaming.Server
	listener *listener
	http     *http.Server
	stop     context.CancelFunc
}

// idleTimeout is how long a connection may say nothing.
const idleTimeout = 4 * time.Hour

// New listens on an address, which must be a loopback one: only clients that may call the CRI
// know the URLs, but what goes over them is not encrypted.
func New(address string, runtime Runtime) (*Server, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("read streaming address: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("streaming address %q is not on the loopback interface", address)
	}
	inner, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for streams: %w", err)
	}
	l := &listener{TCPListener: inner.(*net.TCPListener), conns: map[string]*conn{}}
	l.idle.L = &l.mu
	config := streaming.DefaultConfig
	config.StreamIdleTimeout = idleTimeout
	config.Addr = l.Addr().String()
	config.BaseURL = &url.URL{Scheme: "http", Host: config.Addr}
	handler, err := streaming.NewServer(config, forwarding{runtime, l})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make streaming server: %w", err), l.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Server{Server: handler, listener: l, stop: stop, http: &http.Server{
		Handler: handler, ReadHeaderTimeout: 30 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { // which ends with the connection, too
			ctx, end := context.WithCancelCause(ctx)
			context.AfterFunc(c.(*conn).ctx, func() { end(ErrGone) })
			return ctx
		},
	}}, nil
}

// Serve serves until Close.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve streams: %w", err)
	}
	return nil
}

// Close ends all streams.
func (s *Server) Close() error {
	s.stop()
	err := s.http.Close()
	s.listener.abort()
	return err
}

// forwarding gives forwarded ports a context that ends with their client: the library has none for them.
type forwarding struct {
	Runtime
	listener *listener
}

// PortForward implements streaming.Runtime.
func (f forwarding) PortForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	if of, ok := stream.(interface{ RemoteAddr() net.Addr }); ok { // one of SPDY
		c := f.listener.find(of.RemoteAddr())
		if c == nil {
			return ErrGone
		}
		stop := context.AfterFunc(c.ctx, func() { end(ErrGone) })
		defer stop()
	} else {
		stream = &socket{stream, end}
	}
	return f.Runtime.PortForward(ctx, id, port, stream)
}

// socket is a port's stream over a WebSocket, where the end of the input is the end of the connection.
type socket struct {
	io.ReadWriteCloser
	end context.CancelCauseFunc
}

// Read implements io.Reader.
func (s *socket) Read(p []byte) (int, error) {
	n, err := s.ReadWriteCloser.Read(p)
	if err != nil {
		s.end(ErrGone)
	}
	return n, err
}
