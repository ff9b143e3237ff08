package watchdog

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// supervisor is a socket that takes what it is told.
type supervisor struct {
	t    *testing.T
	conn *net.UnixConn
}

func newSupervisor(t *testing.T, interval time.Duration) supervisor {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(interval.Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	return supervisor{t, conn}
}

// told is the next message within d, "" if none comes.
func (s supervisor) told(d time.Duration) string {
	s.t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		s.t.Fatal(err)
	}
	buffer := make([]byte, 100)
	n, err := s.conn.Read(buffer)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Fatal(err)
	}
	return string(buffer[:n])
}

// TestSupervisor: it hears of the start, of turns and of the end, and nothing while the loop does not turn.
func TestSupervisor(t *testing.T) {
	const soon = 30 * time.Second
	s := newSupervisor(t, 1100*time.Millisecond)
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx, func() error { return nil })
	}()
	if got := s.told(300 * time.Millisecond); got != "" {
		t.Errorf("before the first turn: %q", got)
	}
	for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
		<-w.Pings() // a turn
		if got := s.told(soon); got != want {
			t.Errorf("after a turn: %q, want %q", got, want)
		}
	}
	if got := s.told(1200 * time.Millisecond); got != "" {
		t.Errorf("while the loop stands still: %q", got)
	}
	<-w.Pings()
	if got := s.told(soon); got != "WATCHDOG=1" {
		t.Errorf("when it turns again: %q", got)
	}
	cancel()
	if got := s.told(soon); got != "STOPPING=1" {
		t.Errorf("at the end: %q", got)
	}
	<-done
}

// TestNoWatchdog: a supervisor that wants no signs of life, or those of another process, hears of start and end only.
func TestNoWatchdog(t *testing.T) {
	for name, value := range map[string]string{"WATCHDOG_USEC": "", "WATCHDOG_PID": "1"} {
		s := newSupervisor(t, 1100*time.Millisecond)
		t.Setenv(name, value)
		w, err := New()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Run(ctx, func() error { return nil })
		}()
		<-w.Pings()
		if got := s.told(30 * time.Second); got != "READY=1" {
			t.Errorf("%s=%s: %q", name, value, got)
		}
		select {
		case <-w.Pings():
			t.Errorf("%s=%s: another turn is asked for", name, value)
		case <-time.After(700 * time.Millisecond):
		}
		cancel()
		<-done
	}
}

// TestBadEnvironment: what no supervisor says is refused by its name.
func TestBadEnvironment(t *testing.T) {
	for name, value := range map[string]string{"WATCHDOG_USEC": "soon", "WATCHDOG_PID": "me"} {
		newSupervisor(t, 2*time.Second)
		t.Setenv(name, value)
		if _, err := New(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
	newSupervisor(t, time.Second)
	if _, err := New(); err == nil || !strings.Contains(err.Error(), "WATCHDOG_USEC") {
		t.Errorf("a second: %v", err)
	}
}

// TestStall: each time the loop stops to turn, all goroutines are logged once.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&log)))))
		var problem atomic.Pointer[error]
		w, err := New()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Run(ctx, func() error {
				if err := problem.Load(); err != nil {
					return *err
				}
				return nil
			})
		}()
		go func() { <-w.Pings() }()
		for stall := range 2 {
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := strings.Count(log.String(), "stands still"); n != stall {
				t.Errorf("logged %d times before stall %d", n, stall)
			}
			problem.Store(new(errors.New("no turn for a minute")))
			time.Sleep(time.Minute)
			synctest.Wait()
			problem.Store(nil)
		}
		for text, want := range map[string]int{"no turn for a minute": 2, "watchdog.TestStall": 2} {
			if n := strings.Count(log.String(), text); n < want {
				t.Errorf("%q is logged %d times:\n%s", text, n, log.String())
			}
		}
		if n := strings.Count(log.String(), "stands still"); n != 2 {
			t.Errorf("two stalls are logged %d times", n)
		}
		cancel()
		<-done
	})
}
