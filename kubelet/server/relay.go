package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// goneTimeout is how long output may pause after the client has ended its side of the connection.
	goneTimeout = 10 * time.Second
	// endTimeout is how long a client may take to end the stream itself once the runtime has ended its side.
	endTimeout = 10 * time.Second
	// fetchTimeout is how long a client may take for what is on its way when the runtime has ended the stream.
	fetchTimeout = 2 * time.Minute
	// silence is how long the runtime must have said nothing before a ping may reach it.
	silence = time.Second

	relayBuffer = 32 << 10
	maxPongs    = 16 // waiting to be sent; a client that pings without reading gets no more
)

// relay joins a client's connection with one to the runtime until both ends have said all and have got all.
//
// TCP drops what was not fetched yet when a connection is closed with unread bytes, or when some arrive after it was
// closed. So the end of one direction is passed on as the end of that direction alone, and what the client says after
// the runtime's last word is read and dropped. Runtimes do not close their end with such care, and clients send pings
// at any time. While there is output, pings are therefore answered here and do not reach the runtime. The apiserver's
// proxy closes the client's connection as soon as ours ends, with what the client says then unread. So the client, which
// the last frames tell of the end, gets time to close first.
type relay struct {
	client, runtime net.Conn
	protocol        protocol     // nil if it is not known
	awaited         atomic.Int64 // since when the runtime is waited for, in nanoseconds after epoch; 0 while output is passed on
	output          output

	mu      sync.Mutex
	timeout time.Duration // without a byte either way; 0 for none
	timer   *time.Timer   // nil when the runtime has ended the stream
}

// newRelay returns a relay that ends when nothing has passed for the timeout, if that is not 0.
func newRelay(client, runtime net.Conn, p protocol, timeout time.Duration) *relay {
	r := &relay{client: client, runtime: runtime, protocol: p, output: output{to: client, boundaries: boundaries{protocol: p}}}
	r.timer = time.AfterFunc(time.Hour, r.close)
	r.timer.Stop()
	r.limit(timeout)
	return r
}

// limit sets for how long nothing may pass from now on, unless only less is allowed.
func (r *relay) limit(timeout time.Duration) {
	r.mu.Lock()
	if timeout > 0 && (r.timeout == 0 || timeout < r.timeout) {
		r.timeout = timeout
	}
	r.mu.Unlock()
	r.moved()
}

func (r *relay) moved() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil && r.timeout > 0 {
		r.timer.Reset(r.timeout)
	}
}

func (r *relay) stopTimer() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timer.Stop()
	r.timer = nil
}

// close ends the relay at once.
func (r *relay) close() {
	_ = r.runtime.Close()
	_ = r.client.Close()
}

// run copies both ways. input is where the client's bytes are read from.
func (r *relay) run(input io.Reader) {
	ended, end := context.WithCancel(context.Background())
	var up sync.WaitGroup
	up.Go(func() {
		defer end()
		r.up(bufio.NewReaderSize(input, relayBuffer), end)
		_ = closeWrite(r.runtime)
		r.limit(goneTimeout)
	})
	cut, gone := r.down()
	r.stopTimer()
	_ = r.runtime.Close()
	if !gone && !cut {
		ended, cancel := context.WithTimeout(ended, endTimeout)
		<-ended.Done()
		cancel()
	}
	if !gone && endOutput(r.client, cut) == nil {
		fetched := time.AfterFunc(fetchTimeout, func() { _ = r.client.Close() })
		up.Wait() // until the client has closed its end
		fetched.Stop()
	}
	_ = r.client.Close()
	up.Wait()
}

// up passes on what the client says until it has said all. What the runtime does not take is dropped. It calls end when
// the client says that it ends the stream.
func (r *relay) up(from *bufio.Reader, end func()) {
	to := &faithful{Writer: r.runtime}
	if r.protocol == nil {
		_, _ = io.Copy(to, &watched{from, r.moved})
		return
	}
	buffer := make([]byte, relayBuffer)
	for {
		size, err := r.frameSize(from)
		if err != nil {
			return
		}
		if size <= maxPing {
			frame, err := from.Peek(int(size))
			if err != nil {
				return
			}
			if r.protocol.ends(frame) {
				end()
			}
			if pong := r.protocol.pong(frame); pong != nil && !r.silent() {
				r.moved()
				r.output.pong(pong)
				_, _ = from.Discard(len(frame))
				continue
			}
		}
		if _, err := io.CopyBuffer(to, io.LimitReader(&watched{from, r.moved}, size), buffer); err != nil {
			return
		}
	}
}

// frameSize returns the length of the next frame.
func (r *relay) frameSize(from *bufio.Reader) (int64, error) {
	for n := 1; ; n++ {
		head, err := from.Peek(n)
		if err != nil {
			return 0, err
		}
		if size := r.protocol.size(head); size > 0 {
			return size, nil
		}
	}
}

// epoch is before every stream. Times are counted from it, which steps of the clock do not change.
var epoch = time.Now()

// silent tells that the runtime has said nothing for a while, and that nothing of it waits here. It may have its own
// idea of how long a stream may be idle, so it gets to see pings then.
func (r *relay) silent() bool {
	since := r.awaited.Load()
	return since != 0 && time.Since(epoch)-time.Duration(since) > silence
}

// down passes on what the runtime says. It tells whether that was cut off, and whether the client takes no more.
func (r *relay) down() (cut, gone bool) {
	buffer := make([]byte, relayBuffer)
	for {
		r.awaited.Store(int64(time.Since(epoch)))
		n, err := r.runtime.Read(buffer)
		r.awaited.Store(0)
		if n > 0 {
			r.moved()
			if r.output.write(buffer[:n]) != nil {
				return false, true
			}
			r.moved()
		}
		if err != nil {
			return !errors.Is(err, io.EOF), false
		}
	}
}

// output is the direction to the client. Pongs go between the runtime's frames.
type output struct {
	to io.Writer

	mu         sync.Mutex // held while to is written to
	boundaries boundaries

	waiting sync.Mutex
	pongs   [][]byte
}

// write passes on bytes of the runtime, and pongs where one of its frames ends.
func (o *output) write(p []byte) error {
	err := o.writeLocked(p)
	o.flush()
	return err
}

func (o *output) writeLocked(p []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.boundaries.protocol != nil {
		if end := o.boundaries.passed(p); end > 0 && o.any() {
			p = slices.Concat(p[:end], o.take(), p[end:])
		}
	}
	_, err := o.to.Write(p)
	return err
}

// pong sends an answer as soon as a frame of the runtime has ended.
func (o *output) pong(answer []byte) {
	o.waiting.Lock()
	if len(o.pongs) < maxPongs {
		o.pongs = append(o.pongs, answer)
	}
	o.waiting.Unlock()
	o.flush()
}

// flush sends the pongs that wait, unless a frame is under way or another goroutine writes, which then flushes.
func (o *output) flush() {
	for o.any() && o.mu.TryLock() {
		between := o.boundaries.between()
		var err error
		if between {
			_, err = o.to.Write(o.take())
		}
		o.mu.Unlock()
		if !between || err != nil {
			return
		}
	}
}

func (o *output) any() bool {
	o.waiting.Lock()
	defer o.waiting.Unlock()
	return len(o.pongs) > 0
}

func (o *output) take() []byte {
	o.waiting.Lock()
	defer o.waiting.Unlock()
	pongs := slices.Concat(o.pongs...)
	o.pongs = nil
	return pongs
}

// faithful writes as long as that works, and then pretends to: what is read for it must be read to the end.
type faithful struct {
	io.Writer
	failed bool
}

func (f *faithful) Write(p []byte) (int, error) {
	if !f.failed {
		_, err := f.Writer.Write(p)
		f.failed = err != nil
	}
	return len(p), nil
}

// watched calls moved for what is read.
type watched struct {
	io.Reader
	moved func()
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 {
		w.moved()
	}
	return n, err
}

// closeWrite tells the other end that nothing more will come, and leaves open what comes from there.
func closeWrite(conn net.Conn) error {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// endOutput tells the client that nothing more will come. What was cut off ends without TLS having said so.
func endOutput(client net.Conn, cut bool) error {
	if c, ok := client.(*tls.Conn); ok && cut {
		return closeWrite(c.NetConn())
	}
	return closeWrite(client)
}
