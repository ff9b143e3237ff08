package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/klog/v2"
)

// Healthz is the plain HTTP server of /healthz, meant for the loopback address.
//
// Upstream: pkg/kubelet/kubelet.go ListenAndServe's healthz twin in cmd/kubelet/app/server.go RunKubelet.
type Healthz struct {
	listener net.Listener
	server   *http.Server
}

// ListenHealthz opens the address (host:port) and answers /healthz with all checks and
// /healthz/NAME with one. It fails when the address cannot be bound.
func ListenHealthz(address string, checks []Check) (*Healthz, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for health checks (healthzBindAddress, healthzPort): %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { answer(w, r, checks) })
	for _, c := range checks {
		mux.HandleFunc("GET /healthz/"+c.Name, func(w http.ResponseWriter, r *http.Request) { answer(w, r, []Check{c}) })
	}
	return &Healthz{listener: guard(l), server: &http.Server{
		Handler:           mux,
		ReadTimeout:       10 * time.Second,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
	}}, nil
}

// Addr is the address that the server listens on.
func (h *Healthz) Addr() string { return h.listener.Addr().String() }

// Run serves until ctx ends.
func (h *Healthz) Run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = h.server.Close() })
	defer stop()
	if err := h.server.Serve(h.listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
		klog.FromContext(ctx).Error(err, "Health server stopped")
	}
}
