package server

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"minikubelet/kubelet/server/auth"
)

// Connections at most. Those on which nothing was allowed yet are counted apart, and few of them are one peer's: all
// that it takes to open them is to reach the port. Each ends within headerTimeout for its TLS handshake and again for
// its request.
const (
	maxStrange        = 512
	maxStrangeAddress = 128
	maxStrangeNetwork = 256
	maxKnown          = 1024
)

// guarded is a listener that closes connections of a peer with too many of them at once. netutil.LimitListener would accept
// none at its limit, so that one peer with many connections kept all others out.
type guarded struct {
	net.Listener
	strange, known *shares
}

func guard(l net.Listener) net.Listener {
	return &guarded{Listener: l, strange: newShares(maxStrange), known: newShares(maxKnown)}
}

// Accept implements net.Listener.
func (g *guarded) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := conn.RemoteAddr().String()
		leave, ok := g.strange.take(claim{"address " + hostOf(from), maxStrangeAddress}, claim{"network " + networkOf(from), maxStrangeNetwork})
		if ok {
			return &counted{Conn: conn, known: g.known, leave: leave}, nil
		}
		if c, ok := conn.(*net.TCPConn); ok {
			_ = c.SetLinger(0) // nothing is owed to it, not even memory of its end
		}
		_ = conn.Close()
	}
}

// counted is a connection that holds a place until it is closed.
type counted struct {
	net.Conn
	known *shares

	mu      sync.Mutex
	leave   func()
	allowed bool // it has its place among the known
	closed  bool
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	defer c.leave()
	return c.Conn.Close()
}

// CloseWrite tells the other end that nothing more will come.
func (c *counted) CloseWrite() error { return closeWrite(c.Conn) }

// allow gives the connection a place among those of the user in exchange for that of a stranger, and reports false if
// the user has no place left. A user without credentials stays a stranger whatever it may do.
func (c *counted) allow(user *auth.User) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.allowed || c.closed || !user.Known() {
		return true
	}
	leave, ok := c.known.take(c.known.share(user, c.RemoteAddr().String())...)
	if ok {
		c.leave()
		c.leave, c.allowed = leave, true
	}
	return ok
}

type connKey struct{}

// withConn is for http.Server.ConnContext.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	return context.WithValue(ctx, connKey{}, conn)
}

// allowConn notes that the user may do what came over the request's connection.
func allowConn(ctx context.Context, user *auth.User) bool {
	c, ok := ctx.Value(connKey{}).(*counted)
	return !ok || c.allow(user)
}

// headerTimeout is for the TLS handshake, and again for a request's header.
const headerTimeout = 10 * time.Second

// quietErrors logs what net/http says of single connections: a panic as an error, and the rest, which every client can cause,
// only when asked for.
type quietErrors struct{}

func (quietErrors) Write(line []byte) (int, error) {
	if text := strings.TrimSpace(string(line)); strings.Contains(text, "panic serving") {
		klog.Background().Error(nil, "A request made its handler panic", "reason", text)
	} else {
		klog.Background().V(4).Info("Connection failed", "reason", text)
	}
	return len(line), nil
}
