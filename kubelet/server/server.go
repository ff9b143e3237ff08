// Package server answers HTTP requests about the node and its pods.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/server/auth"
	"minikubelet/kubelet/server/logs"
	"minikubelet/kubelet/settings"
	"minikubelet/runtime/cri"
)

// What the server takes on at most, beside connections. More are asked to try again. One user, and one address, gets
// at most three quarters of each, so that a place is left for others.
const (
	maxLogs     = 256 // of containers and of the node
	maxCommands = 256 // exec, attach, run and checkpoint, profiles
	maxForwards = 256
	maxRequests = 128 // all others at a time
	maxHeader   = 512 << 10
	maxBody     = 1 << 20

	bodyTimeout  = 10 * time.Second
	writeTimeout = 30 * time.Second // for each piece of an answer
	idleTimeout  = 90 * time.Second // between requests
)

// Options are what the server answers from. Handlers that are nil are not there.
type Options struct {
	Settings *settings.Settings
	// Current are the settings in force and the fields that need a restart; nil for Settings and none.
	Current func() (*settings.Settings, []string)
	CRI     *cri.Client
	// Pods returns the pods that should run here, with their newest status.
	Pods func() []*corev1.Pod
	// Observed returns what the runtime has of a pod.
	Observed func(types.UID) (*cri.PodStatus, bool)
	// Checks are answered below /healthz, beside ping and log.
	Checks []Check

	// Tokens and Access ask the apiserver; nil without one.
	Tokens auth.TokenReviewer
	Access auth.AccessReviewer
	// Addresses are the node's, for a certificate that the server signs itself; nil for none.
	Addresses func() []string
	// GetCertificate returns the serving certificate; nil for tlsCertFile, or one that the server signs itself.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// Metrics, Resource, Probes, Cadvisor and SLIs answer /metrics and what is below it, Summary /stats/summary.
	Metrics, Resource, Probes, Cadvisor, SLIs, Summary http.Handler
	// ObserveCheck is told what the checks of /healthz find; may be nil.
	ObserveCheck func(name string, err error)
	// Instrument goes around all handlers of a port, "readwrite" or "readonly".
	Instrument func(port string, handler http.Handler) http.Handler
}

// Server answers requests about the node and its pods over HTTPS, and over HTTP on the read-only port if there is one.
//
// Upstream: pkg/kubelet/server/server.go Server
type Server struct {
	options  Options
	settings *settings.Settings
	auth     *auth.Auth
	token    *reloaded[string] // what opens a standalone server without client authority; nil for others
	started  time.Time
	paths    []string
	watcher  logs.Watcher
	root     string

	logs, commands, forwards, requests *shares // of what is under way
	stopped                            context.Context

	secure, readOnly *Port
}

// Port is one open port, with what answers on it.
type Port struct {
	net.Listener
	server *http.Server
}

// Run serves until ctx ends.
func (p *Port) Run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = p.server.Close() })
	defer stop()
	if err := p.server.Serve(p.Listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
		klog.FromContext(ctx).Error(err, "Server stopped", "address", p.Addr())
	}
}

func newServer(o Options) *Server {
	return &Server{
		options: o, settings: o.Settings, started: time.Now(), root: systemLogs,
		logs: newShares(maxLogs), commands: newShares(maxCommands), forwards: newShares(maxForwards), requests: newShares(maxRequests),
	}
}

// Listen opens the ports, so that one that is taken is found out at once, and makes what cannot fail later.
// Without an apiserver only the loopback interface is listened on.
func Listen(o Options) (*Server, error) {
	if o.Addresses == nil {
		o.Addresses = func() []string { return nil }
	}
	s := newServer(o)
	if err := s.prepareAuth(); err != nil {
		return nil, err
	}
	config, err := s.tlsConfig()
	if err != nil {
		return nil, err
	}
	handler := s.handler(true)
	if s.secure, err = listen(s.address(o.Settings.Port), "port", handler); err != nil {
		return nil, err
	}
	s.secure.Listener = tls.NewListener(s.secure.Listener, config)
	if port := o.Settings.ReadOnlyPort; port != 0 {
		if s.readOnly, err = listen(s.address(port), "readOnlyPort", s.handler(false)); err != nil {
			return nil, errors.Join(err, s.secure.Close())
		}
	}
	return s, nil
}

// address is where to listen.
func (s *Server) address(port int32) string {
	host := s.settings.Address
	if s.settings.Standalone() {
		host = "127.0.0.1"
		if ip := net.ParseIP(s.settings.Address); ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// listen makes a server of HTTP/1.1 only: its connections can all be taken over for streams, and one request at a
// time on each makes the bounds above hold.
func listen(address, setting string, handler http.Handler) (*Port, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for requests (address, %s): %w", setting, err)
	}
	return &Port{
		Listener: guard(l),
		server: &http.Server{
			Handler: handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
			ErrorLog: log.New(quietErrors{}, "", 0), ConnContext: withConn, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		},
	}, nil
}

// Addr is the address that HTTPS is answered on.
func (s *Server) Addr() string { return s.secure.Addr().String() }

// Run serves until ctx ends, and returns when the ports are closed and every request has ended.
func (s *Server) Run(ctx context.Context) {
	s.stopped = ctx
	var ports sync.WaitGroup
	var inside sync.RWMutex // held for reading by each request
	for _, l := range []*Port{s.secure, s.readOnly} {
		if l == nil {
			continue
		}
		next := l.server.Handler
		l.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inside.RLock()
			defer inside.RUnlock()
			if ctx.Err() == nil {
				next.ServeHTTP(w, r)
			}
		})
		l.server.BaseContext = func(net.Listener) context.Context { return ctx }
		ports.Go(func() { l.Run(ctx) })
	}
	ports.Wait()
	inside.Lock()
	defer inside.Unlock()
	_ = s.watcher.Close()
}
