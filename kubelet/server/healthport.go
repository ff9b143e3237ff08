package server

import (
	"fmt"
	"net"
	"net/http"
	"time"
)

// ListenHealthz opens the address (host:port), meant to be a loopback address, for plain HTTP: /healthz answers with all
// checks and /healthz/NAME with one. It fails when the address cannot be bound.
//
// Upstream: cmd/kubelet/app/server.go run
func ListenHealthz(address string, checks []Check) (*Port, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for health checks (healthzBindAddress, healthzPort): %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { answer(w, r, checks) })
	for _, c := range checks {
		mux.HandleFunc("GET /healthz/"+c.Name, func(w http.ResponseWriter, r *http.Request) { answer(w, r, []Check{c}) })
	}
	return &Port{guard(l), &http.Server{
		Handler: mux, ReadTimeout: 10 * time.Second, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
	}}, nil
}
