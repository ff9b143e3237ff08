package streaming

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// ErrGone is the cause with which a stream's context ends when its client has closed or lost the connection.
var ErrGone = errors.New("the client has gone")

// fetchTimeout is how long a client may take for what is on its way when a stream has ended.
const fetchTimeout = 2 * time.Minute

// listener accepts connections and keeps them until they are closed for good.
type listener struct {
	*net.TCPListener

	mu      sync.Mutex
	conns   map[string]*conn // by the client's address
	closing int              // connections that finish is at work on
	idle    sync.Cond        // of mu: closing is 0
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	tcp, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	ctx, gone := context.WithCancelCause(context.Background())
	c := &conn{TCPConn: tcp, listener: l, ctx: ctx, gone: gone}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[tcp.RemoteAddr().String()] = c
	return c, nil
}

// find returns the connection from an address, nil if it is closed.
func (l *listener) find(address net.Addr) *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns[address.String()]
}

// abort closes all connections at once and waits until nothing is done for them any more.
func (l *listener) abort() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.TCPConn.Close()
	}
	for l.closing > 0 {
		l.idle.Wait()
	}
}

// conn is a client's connection. Its context ends with ErrGone when the client cannot be read from or written to any
// more: neither SPDY nor WebSockets close one direction alone.
//
// TCP drops what was not fetched yet when a connection is closed with unread bytes, or gets some afterwards, as from a
// client that pings. Close therefore only ends the output, and reads until the client has closed its end.
type conn struct {
	*net.TCPConn
	listener *listener
	ctx      context.Context
	gone     context.CancelCauseFunc

	reading sync.Mutex // held while the connection is read
	mu      sync.Mutex
	closed  bool
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	n, err := c.TCPConn.Read(p)
	return n, c.noticed(err)
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	return n, c.noticed(err)
}

// noticed ends the context when an error means that the client has gone.
func (c *conn) noticed(err error) error {
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.gone(ErrGone)
	}
	return err
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return c.TCPConn.SetReadDeadline(t)
}

// Close ends the output, and the connection once the client has ended its own.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	c.gone(ErrGone)
	_ = c.CloseWrite()
	_ = c.TCPConn.SetReadDeadline(time.Unix(1, 0)) // ends a read that waits
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.listener.closing++
	go c.finish()
	return nil
}

// finish reads what the client still says, and closes the connection.
func (c *conn) finish() {
	c.reading.Lock()
	defer c.reading.Unlock()
	_ = c.TCPConn.SetReadDeadline(time.Now().Add(fetchTimeout))
	_, _ = io.Copy(io.Discard, c.TCPConn)
	_ = c.TCPConn.Close()
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	if address := c.RemoteAddr().String(); c.listener.conns[address] == c {
		delete(c.listener.conns, address)
	}
	if c.listener.closing--; c.listener.closing == 0 {
		c.listener.idle.Broadcast()
	}
}
