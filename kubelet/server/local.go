package server

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
)

// Local answers what leads into containers, and which pods there are, without asking for credentials: it is meant for a
// socket that only root can open. The settings that switch such requests off are for the network.
type Local struct {
	server *Server
	mux    *http.ServeMux
}

// NewLocal makes a Local; of the options it needs Settings, CRI, Pods and Observed. It serves until ctx ends.
func NewLocal(ctx context.Context, o Options) *Local {
	s := newServer(o)
	s.stopped = ctx
	l := &Local{server: s, mux: http.NewServeMux()}
	for _, r := range append(s.containerRoutes(), route{pattern: "GET /pods", handler: s.getPods}) {
		l.mux.Handle(r.pattern, s.bounded(r))
	}
	context.AfterFunc(ctx, func() { _ = s.watcher.Close() })
	return l
}

// Handle adds requests of another part. A request for which stream is set lasts as long as its user likes.
func (l *Local) Handle(pattern string, stream bool, handler func(http.ResponseWriter, *http.Request) error) {
	r := route{pattern: pattern, handler: handler}
	if stream {
		r.kind = l.server.logs
	}
	l.mux.Handle(pattern, l.server.bounded(r))
}

// ServeHTTP implements http.Handler.
func (l *Local) ServeHTTP(w http.ResponseWriter, r *http.Request) { l.mux.ServeHTTP(w, r) }

// Port answers on a socket.
func (l *Local) Port(on net.Listener) *Port {
	return &Port{on, &http.Server{Handler: l, ReadHeaderTimeout: headerTimeout, ErrorLog: log.New(io.Discard, "", 0)}}
}

// Error is an error whose status the client gets to see.
func Error(status int, message string) error { return &httpError{status, message} }
