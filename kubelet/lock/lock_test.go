package lock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLock: who comes second waits for the lock, and the first is told of it.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubelet.lock")
	if err := Acquire(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	contended := make(chan struct{})
	if err := Watch(path, func() { close(contended) }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	go func() { waited <- Acquire(ctx, path) }()
	<-contended
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("the second got %v", err)
	}
	other, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a third one's try ends with %v", err)
	}
	if err := Acquire(t.Context(), filepath.Join(path, "none")); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file that cannot be: %v", err)
	}
}
