package monitor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestHangup: a command whose client has gone keeps neither goroutine nor descriptor of ours. One with a terminal ends
// by that, one without it when it writes, and one that says nothing goes on.
func TestHangup(t *testing.T) {
	HearHangup()
	gone := errors.New("gone")
	dir := t.TempDir()
	r := pretender(t, dir)
	for name, tt := range map[string]struct {
		command string
		tty     bool
		ends    bool
	}{
		"terminal": {"sleep 1000", true, true},
		"writes":   {"while :; do echo; sleep 0.1; done", false, true},
		"silent":   {"exec sleep 1000", false, false},
	} {
		before := descriptors(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := r.Exec(ctx, Exec{ID: "c", Command: []string{tt.command}, Stdout: discard{}, TTY: tt.tty, Hangup: gone, TempDir: t.TempDir()})
			done <- err
		}()
		var pid int
		poll(t, name+" has begun", func() bool {
			text, _ := os.ReadFile(filepath.Join(dir, "pid"))
			pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
			return pid > 0
		})
		cancel(gone)
		select {
		case err := <-done:
			if !errors.Is(err, gone) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: the stream outlives its client", name)
		}
		process, err := os.FindProcess(pid)
		if err != nil {
			t.Fatal(err)
		}
		runs := func() bool { return process.Signal(syscall.Signal(0)) == nil }
		if tt.ends {
			poll(t, name+" has ended", func() bool { return !runs() })
		} else if !runs() {
			t.Errorf("%s: the command was ended", name)
		}
		_ = process.Kill()
		poll(t, name+" is gone", func() bool { return !runs() })
		_ = process.Release()
		poll(t, name+": its descriptors are closed", func() bool { return descriptors(t) <= before })
		_ = os.Remove(filepath.Join(dir, "pid"))
	}
}

// pretender is a runtime that runs the last argument in place of a container's command, and writes its PID as runc would.
func pretender(t *testing.T, dir string) *Runtime {
	t.Helper()
	runc := filepath.Join(dir, "runc")
	script := "#!/bin/sh\nfor a; do [ \"$last\" = --pid-file ] && echo $$ >\"$a\"; last=$a; done\necho $$ >" + dir + "/pid; exec sh -c \"$last\"\n"
	if err := os.WriteFile(runc, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return &Runtime{Path: runc, Root: dir}
}

// TestEndedInTime: a command that ended before its time was up has not timed out, also when that passes while what the
// command has started keeps its output open.
func TestEndedInTime(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	command := "p=$$; (while kill -0 $p 2>/dev/null; do sleep 0.01; done; echo time is up; exec sleep 1000) & echo $! >" + dir + "/child"
	code, err := pretender(t, dir).Exec(ctx, Exec{ID: "c", Command: []string{command}, Stdout: calls(cancel), TempDir: t.TempDir()})
	if code != 0 || err != nil {
		t.Errorf("%d, %v", code, err)
	}
	if ctx.Err() == nil {
		t.Error("its time was not up")
	}
	text, _ := os.ReadFile(filepath.Join(dir, "child"))
	if child, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || syscall.Kill(child, syscall.SIGKILL) != nil {
		t.Errorf("the child: %q", text)
	}
}

// calls is called for whatever is written.
type calls func()

func (c calls) Write(p []byte) (int, error) {
	c()
	return len(p), nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// poll waits for what no event tells.
func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
	}
}
