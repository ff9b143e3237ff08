// Package lock lets one kubelet at a time run on a machine, and another one take over: --lock-file and --exit-on-lock-contention.
package lock

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// Acquire waits until no other process holds the lock of the file, which is made if it is not there. The lock ends with this process.
//
// Upstream: pkg/util/flock/flock_unix.go Acquire.
func Acquire(ctx context.Context, path string) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("--lock-file: open %s: %w", path, err)
	}
	klog.FromContext(ctx).Info("Waiting for the lock", "file", path)
	locked := make(chan error, 1) // has room for an answer that comes after Acquire has returned
	go func() { locked <- flock(fd) }()
	select {
	case err = <-locked:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("--lock-file: lock %s: %w", path, err)
	}
	return nil
}

// flock waits for the lock of an open file. Signals, such as those of the Go runtime, interrupt the call.
func flock(fd int) error {
	for {
		if err := unix.Flock(fd, unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Watch calls contended once, when another process opens the file or removes it.
//
// Upstream: cmd/kubelet/app/server_linux.go watchForLockfileContention.
func Watch(path string, contended func()) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err == nil {
		_, err = unix.InotifyAddWatch(fd, path, unix.IN_OPEN|unix.IN_DELETE_SELF)
	}
	if err != nil {
		return fmt.Errorf("--exit-on-lock-contention: watch %s: %w", path, err)
	}
	go func() {
		file := os.NewFile(uintptr(fd), "inotify")
		defer file.Close()
		if _, err := file.Read(make([]byte, unix.SizeofInotifyEvent+unix.NAME_MAX+1)); err == nil {
			contended()
		}
	}()
	return nil
}
