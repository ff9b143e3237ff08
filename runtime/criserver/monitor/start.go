package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Start lets the first process of a created container go. That of runc waits until its FIFO is read, which needs no
// process of runc. Other runtimes, and containers without that FIFO, are started by the runtime's program.
func (r *Runtime) Start(ctx context.Context, id string, init *Handle) error {
	if r.Runc && init != nil {
		err := readFIFO(ctx, filepath.Join(r.Root, id, "exec.fifo"), init)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	_, err := r.run(ctx, nil, "start", id)
	return err
}

// readFIFO waits for the byte that the first process of a container writes before it executes the container's program,
// and removes the FIFO, which tells runc that the container was started.
func readFIFO(ctx context.Context, path string, init *Handle) error {
	// Without O_NONBLOCK this would wait for the process to open it, which one that has ended never does.
	fifo, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer fifo.Close()
	raw, err := fifo.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = fifo.SetReadDeadline(time.Now()) })
	defer stop()
	// The process's end ends the wait for its byte too. A handle of its own can be closed while it is waited for.
	process, err := Open(init.PID, init.Start)
	if err == nil {
		defer process.Close()
		go func() {
			if process.Wait(context.WithoutCancel(ctx)) == nil {
				_ = fifo.SetReadDeadline(time.Now())
			}
		}()
		_ = raw.Read(readable)
	}
	var n int
	var readErr error
	if err := raw.Control(func(fd uintptr) { n, readErr = unix.Read(int(fd), make([]byte, 1)) }); err != nil {
		return err
	}
	if n != 1 {
		return errors.Join(fmt.Errorf("start process %d: it has ended or did not answer", init.PID), ctx.Err(), readErr)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
