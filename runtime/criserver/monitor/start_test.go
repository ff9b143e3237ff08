package monitor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// waiting is a process that waits for its start as runc's do, and its runtime, whose program fails.
func waiting(t *testing.T, script string) (*Runtime, *Handle, *exec.Cmd) {
	t.Helper()
	r := &Runtime{Path: "/bin/false", Root: t.TempDir(), Runc: true}
	if err := os.Mkdir(filepath.Join(r.Root, "one"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(r.Root, "one", "exec.fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = filepath.Join(r.Root, "one")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	h, err := Open(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return r, h, cmd
}

// TestStart: a container of runc is started without a process of runc, whenever its first process comes to wait.
func TestStart(t *testing.T) {
	for name, script := range map[string]string{
		"waits":       "printf 0 >exec.fifo; exec sleep 100",
		"comes later": "sleep 0.2; printf 0 >exec.fifo; exec sleep 100",
		"ends":        "printf 0 >exec.fifo",
	} {
		t.Run(name, func(t *testing.T) {
			r, init, _ := waiting(t, script)
			if err := r.Start(t.Context(), "one", init); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(r.Root, "one", "exec.fifo")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("runc takes the container for one that was not started: %v", err)
			}
			if err := r.Start(t.Context(), "one", init); err == nil {
				t.Error("it was started twice")
			}
		})
	}
}

// TestStartOfNone: a start ends with the first process, or with its caller's patience.
func TestStartOfNone(t *testing.T) {
	r, init, cmd := waiting(t, "exec sleep 100")
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Start(short, "one", init); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a process that does not come: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = cmd.Process.Kill() })
	if err := r.Start(t.Context(), "one", init); err == nil {
		t.Error("a process that ends meanwhile was started")
	}
	_ = cmd.Wait()
	if err := r.Start(t.Context(), "one", init); err == nil {
		t.Error("a process that has ended was started")
	}
}
