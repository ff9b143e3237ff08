// Package streaming serves what exec, attach and port-forward of the CRI answer with: URLs on
// the loopback interface that work once, for whoever connects in time.
package streaming

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"k8s.io/cri-streaming/pkg/streaming"
)

// Runtime is what connects clients with containers and pods.
type Runtime = streaming.Runtime

// Server hands out URLs and serves them.
type Server struct {
	streaming.Server
	listener net.Listener
	http     *http.Server
	stop     context.CancelFunc
}

// idle is how long a connection may say nothing.
const idle = 4 * time.Hour

// New listens on an address, which must be a loopback one: the URLs are known to whoever may
// call the CRI, but what goes over them is not encrypted.
func New(address string, runtime Runtime) (*Server, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("read streaming address: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("streaming address %q is not on the loopback interface", address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for streams: %w", err)
	}
	config := streaming.DefaultConfig
	config.StreamIdleTimeout = idle
	config.Addr = listener.Addr().String()
	config.BaseURL = &url.URL{Scheme: "http", Host: config.Addr}
	handler, err := streaming.NewServer(config, runtime)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make streaming server: %w", err), listener.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Server{Server: handler, listener: listener, stop: stop, http: &http.Server{
		Handler: handler, ReadHeaderTimeout: 30 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
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
	return s.http.Close()
}
