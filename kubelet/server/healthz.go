// Package server answers HTTP requests about the node and its pods.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// Check is one named part of a health answer. A nil error is health.
type Check struct {
	Name  string
	Check func() error
}

// Observed has somebody told what each of the checks finds, nobody if observe is nil.
func Observed(checks []Check, observe func(name string, err error)) []Check {
	if observe == nil {
		return checks
	}
	all := make([]Check, len(checks))
	for i, c := range checks {
		all[i] = Check{Name: c.Name, Check: func() error {
			err := c.Check()
			observe(c.Name, err)
			return err
		}}
	}
	return all
}

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

// answer writes "ok", or the verbose list when a check fails or the client asks for it.
func answer(w http.ResponseWriter, r *http.Request, checks []Check) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	var list strings.Builder
	failed := false
	for _, c := range checks {
		if err := c.Check(); err != nil {
			failed = true
			fmt.Fprintf(&list, "[-]%s failed: %v\n", c.Name, err)
			continue
		}
		fmt.Fprintf(&list, "[+]%s ok\n", c.Name)
	}
	_, verbose := r.URL.Query()["verbose"]
	switch {
	case failed:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%shealthz check failed\n", list.String())
	case verbose:
		fmt.Fprintf(w, "%shealthz check passed\n", list.String())
	default:
		fmt.Fprint(w, "ok")
	}
}

// healthz answers with the checks.
func healthz(checks []Check) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		answer(w, r, checks)
		return nil
	}
}

// logTimeout is how long writing out the log may take before that counts as a fault.
const logTimeout = time.Second

// newLogCheck returns a check that the log can be written: a reader of standard error that hangs stops the kubelet
// sooner or later.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/server/healthz/healthz.go LogHealthz
func newLogCheck() func() error {
	flushing := make(chan struct{}, 1)
	return func() error {
		select {
		case flushing <- struct{}{}:
		default:
			return errors.New("an earlier write of the log has not ended")
		}
		done := make(chan struct{})
		go func() {
			klog.Flush()
			<-flushing
			close(done)
		}()
		select {
		case <-done:
			return nil
		case <-time.After(logTimeout):
			return errors.New("the log could not be written in time")
		}
	}
}
