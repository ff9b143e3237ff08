package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// What conmon understands on its control FIFO, and the first byte of what it sends.
const (
	resizeTerminal = 1
	reopenLog      = 2

	fromStdout = 2
	fromStderr = 3

	// One packet of conmon's attach socket at most.
	packet = 8192
)

// Streams are the ends of an attached client. Nil ones are not served.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
}

// Attach connects a client to the stdio of a running container, until that or the context ends,
// or, when the client only writes, until it has no more to say.
func Attach(ctx context.Context, bundle string, s Streams) error {
	conn, err := dialAttach(bundle)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	go eachSize(ctx.Done(), s.Resize, func(size Size) {
		_ = control(bundle, resizeTerminal, int(size.Height), int(size.Width))
	})
	written := make(chan error, 1)
	if s.Stdin != nil {
		go func() { written <- sendStdin(conn, s.Stdin) }()
	}
	if s.Stdout == nil && s.Stderr == nil {
		select {
		case err := <-written:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return receive(conn, s)
}

// dialAttach connects to conmon's socket through a directory's descriptor, since paths of
// sockets must not be longer than 107 bytes.
func dialAttach(bundle string) (*net.UnixConn, error) {
	dir, err := os.Open(bundle)
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	defer dir.Close()
	path := "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/attach"
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("attach to conmon: %w", err)
	}
	return conn, nil
}

func sendStdin(conn *net.UnixConn, stdin io.Reader) error {
	buffer := make([]byte, packet)
	for {
		n, err := stdin.Read(buffer)
		if n > 0 {
			if _, err := conn.Write(buffer[:n]); err != nil {
				return fmt.Errorf("write to container: %w", err)
			}
		}
		if err != nil {
			return conn.CloseWrite() // conmon closes the container's stdin, or leaves it open
		}
	}
}

func receive(conn *net.UnixConn, s Streams) error {
	buffer := make([]byte, packet+1)
	for {
		n, err := conn.Read(buffer)
		if n > 1 {
			to := map[byte]io.Writer{fromStdout: s.Stdout, fromStderr: s.Stderr}[buffer[0]]
			if to != nil {
				if _, err := to.Write(buffer[1:n]); err != nil {
					return nil //nolint:nilerr // the client has gone
				}
			}
		}
		switch {
		case n == 0 && err == nil, errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ECONNRESET):
			return nil
		case err != nil:
			return fmt.Errorf("read from container: %w", err)
		}
	}
}

// control sends a line to conmon.
func control(bundle string, message, height, width int) error {
	// Not blocking: without conmon the FIFO has no reader.
	fifo, err := os.OpenFile(filepath.Join(bundle, "ctl"), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open control of conmon: %w", err)
	}
	defer fifo.Close()
	if _, err := fmt.Fprintf(fifo, "%d %d %d\n", message, height, width); err != nil {
		return fmt.Errorf("write to control of conmon: %w", err)
	}
	return nil
}

// ReopenLog has conmon write to a new file of the log's name, and waits until that is there.
func ReopenLog(ctx context.Context, bundle, path string) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch log: %w", err)
	}
	defer watcher.Close()
	if err := watcher.Add(filepath.Dir(path)); err != nil {
		return fmt.Errorf("watch log: %w", err)
	}
	if err := control(bundle, reopenLog, 0, 0); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		select {
		case event := <-watcher.Events:
			if filepath.Base(event.Name) == filepath.Base(path) && event.Has(fsnotify.Create) {
				return nil
			}
		case err := <-watcher.Errors:
			return fmt.Errorf("watch log: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("wait for conmon to reopen the log: %w", ctx.Err())
		}
	}
}
