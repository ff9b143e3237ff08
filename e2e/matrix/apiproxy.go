package matrix

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"

	"minikubelet/e2e/stack"
)

// Kinds of faults of requests to the apiserver. Failing is answered with 500, FailingLate too, Hanging with nothing;
// with AnswerLost and Cut the connection ends, after the apiserver has done what was asked and before.
const (
	Slow    Kind = "slow"
	Gone    Kind = "410"
	TooMany Kind = "429"
	Clash   Kind = "conflict"
	Silent  Kind = "silent watch"
)

// Parts of a request, for Fault.Method.
const (
	Watches = "watch"
	Lists   = "list"
	Writes  = "write"
	Reads   = "read"
)

// APIProxy stands between a kubelet and the apiserver. It ends the kubelet's TLS and makes its requests in the node's name.
type APIProxy struct {
	Address string // inside the stack's network
	faults  faults

	server    *http.Server
	proxy     *httputil.ReverseProxy
	transport *http.Transport

	mu      sync.Mutex // guards what follows
	away    bool
	conns   map[net.Conn]bool
	watches map[*slowBody]bool
}

// StartAPIProxy serves at a port of the node for the stack's apiserver.
func StartAPIProxy(s *stack.Stack, port int) (*APIProxy, error) {
	serving, err := s.ServingPair("apiproxy")
	if err != nil {
		return nil, err
	}
	node, err := s.NodePair("apiproxy-node")
	if err != nil {
		return nil, err
	}
	certificate, err := tls.LoadX509KeyPair(node.Cert, node.Key)
	if err != nil {
		return nil, fmt.Errorf("read the node's certificate: %w", err)
	}
	authority, err := os.ReadFile(s.AuthorityPath())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	p := &APIProxy{Address: fmt.Sprintf("%s:%d", stack.NodeIP, port), conns: map[net.Conn]bool{}, watches: map[*slowBody]bool{}}
	p.transport = &http.Transport{
		DialContext: s.DialContext, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	}
	to := &url.URL{Scheme: "https", Host: net.JoinHostPort(stack.NodeIP, "6443")}
	p.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			if strings.Contains(r.In.Header.Get("Accept"), "protobuf") {
				r.Out.Header.Set("Accept", "application/json") // what the proxy itself answers with
			}
			r.Out.Header.Del("Accept-Encoding")
		},
		Transport:     p.transport,
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	l, err := s.Listen(p.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for the kubelet's requests: %w", err)
	}
	p.server = &http.Server{Handler: p, ConnState: p.connState, ErrorLog: log.New(io.Discard, "", 0)} //nolint:gosec // loopback of a test namespace
	go func() { _ = p.server.ServeTLS(l, serving.Cert, serving.Key) }()
	return p, nil
}

// Inject puts a fault in force.
func (p *APIProxy) Inject(f Fault) *Injection { return p.faults.inject(f) }

// Close ends the proxy.
func (p *APIProxy) Close() {
	p.faults.healAll()
	_ = p.server.Close()
	p.transport.CloseIdleConnections()
}

// Away closes all connections and those to come at once, until Back.
func (p *APIProxy) Away() {
	p.mu.Lock()
	p.away = true
	p.mu.Unlock()
	p.CutConnections()
}

// Back ends Away.
func (p *APIProxy) Back() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = false
}

// CutConnections closes the kubelet's connections.
func (p *APIProxy) CutConnections() {
	p.mu.Lock()
	conns := make([]net.Conn, 0, len(p.conns))
	for conn := range p.conns {
		conns = append(conns, conn)
	}
	p.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
	}
}

func (p *APIProxy) connState(conn net.Conn, state http.ConnState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch state {
	case http.StateNew:
		if p.conns[conn] = true; p.away {
			_ = conn.Close()
		}
	case http.StateClosed, http.StateHijacked:
		delete(p.conns, conn)
	}
}

// list is the path of a list: of a kind in the cluster or in a namespace.
var list = regexp.MustCompile(`^/(api/v1|apis/[^/]+/[^/]+)/(namespaces/[^/]+/)?[^/]+$`)

// requestKind sorts requests as faults name them.
func requestKind(r *http.Request) string {
	switch {
	case r.URL.Query().Get("watch") != "":
		return Watches
	case r.Method != http.MethodGet:
		return Writes
	case list.MatchString(r.URL.Path):
		return Lists
	}
	return Reads
}

// ServeHTTP passes a request on, or has it meet its fault.
func (p *APIProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := requestKind(r)
	subject := p.faults.subjectOf([]byte(r.URL.Path))
	fault := p.faults.take(kind, subject)
	if fault == nil {
		p.pass(w, r, kind)
		return
	}
	defer fault.done()
	switch fault.Kind {
	case Failing:
		answer(w, http.StatusInternalServerError, "InternalError")
	case FailingLate:
		fault.wait(r.Context(), fault.Delay)
		answer(w, http.StatusInternalServerError, "InternalError")
	case Gone:
		answer(w, http.StatusGone, "Expired")
	case TooMany:
		w.Header().Set("Retry-After", "1")
		answer(w, http.StatusTooManyRequests, "TooManyRequests")
	case Clash:
		answer(w, http.StatusConflict, "Conflict")
	case Slow:
		fault.wait(r.Context(), fault.Delay)
		p.pass(w, r, kind)
	case Hanging:
		fault.wait(r.Context(), forever)
		panic(http.ErrAbortHandler)
	case Cut:
		panic(http.ErrAbortHandler)
	case AnswerLost:
		p.proxy.ServeHTTP(&lost{header: http.Header{}}, r)
		panic(http.ErrAbortHandler)
	default:
		panic("unknown kind of fault " + string(fault.Kind))
	}
}

func answer(w http.ResponseWriter, code int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"message":"a fault was injected","code":%d}`, reason, code)
}

// lost is an answer that nobody gets.
type lost struct{ header http.Header }

func (l *lost) Header() http.Header         { return l.header }
func (l *lost) Write(b []byte) (int, error) { return len(b), nil }
func (l *lost) WriteHeader(int)             {}

// pass passes a request on. A watch's answer can be held back later.
func (p *APIProxy) pass(w http.ResponseWriter, r *http.Request, kind string) {
	if kind != Watches {
		p.proxy.ServeHTTP(w, r)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	body := &slowBody{ctx: ctx, ResponseWriter: w, cancel: cancel}
	p.mu.Lock()
	p.watches[body] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.watches, body)
		p.mu.Unlock()
		gone := recover()
		if body.expired.Load() {
			_, _ = io.WriteString(w, `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","message":"too old resource version","code":410}}`+"\n")
		} else if gone != nil {
			panic(gone)
		}
	}()
	p.proxy.ServeHTTP(body, r.WithContext(ctx))
}

// ExpireWatches ends all watches as the apiserver does when it no longer has the version that one has come to.
func (p *APIProxy) ExpireWatches() {
	p.eachWatch(func(b *slowBody) { b.expired.Store(true); b.cancel() })
}

// Silence holds back what the watches that run have to say, until it is called again with false.
func (p *APIProxy) Silence(silent bool) {
	p.eachWatch(func(b *slowBody) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch {
		case silent && b.resume == nil:
			b.resume = make(chan struct{})
		case !silent && b.resume != nil:
			close(b.resume)
			b.resume = nil
		}
	})
}

func (p *APIProxy) eachWatch(do func(*slowBody)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for b := range p.watches {
		do(b)
	}
}

// slowBody is a watch's answer.
type slowBody struct {
	http.ResponseWriter
	ctx     context.Context
	cancel  context.CancelFunc
	expired atomic.Bool

	mu     sync.Mutex
	resume chan struct{} // nil unless it is silent
}

// Unwrap is for http.ResponseController, which flushes.
func (b *slowBody) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func (b *slowBody) Write(data []byte) (int, error) {
	b.mu.Lock()
	resume := b.resume
	b.mu.Unlock()
	if resume != nil {
		select {
		case <-resume:
		case <-b.ctx.Done():
			return 0, errors.New("the watch has ended")
		}
	}
	return b.ResponseWriter.Write(data)
}
