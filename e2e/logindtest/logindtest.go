// Package logindtest has a message bus for tests, on which a fake answers as systemd-logind and systemd do.
package logindtest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	logindName    = "org.freedesktop.login1"
	logindPath    = dbus.ObjectPath("/org/freedesktop/login1")
	logindManager = "org.freedesktop.login1.Manager"

	systemdName    = "org.freedesktop.systemd1"
	systemdPath    = dbus.ObjectPath("/org/freedesktop/systemd1")
	systemdManager = "org.freedesktop.systemd1.Manager"
)

// Logind is the fake.
type Logind struct {
	bus *dbus.Conn

	mu    sync.Mutex
	delay time.Duration
	after time.Duration // the delay once it was reloaded
	held  *os.File      // the other end of the newest lock
	asked string
	going bool // a shutdown was announced
}

// Start runs a bus with a fake on it, which waits for five seconds at most, and for a minute once it was reloaded. It is the
// system bus of this process and of those that it starts from now on until the test ends.
func Start(t *testing.T) *Logind {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Fatal("no dbus-daemon, make deps installs it: ", err)
	}
	dir := t.TempDir()
	address, config := "unix:path="+filepath.Join(dir, "bus"), filepath.Join(dir, "bus.conf")
	text := `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>` + address + `</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(program, "--config-file="+config, "--nofork", "--nopidfile", "--print-address")
	ready, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	if _, err := ready.Read(make([]byte, 100)); err != nil {
		t.Fatal("the bus did not start: ", err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
	l := &Logind{delay: 5 * time.Second, after: time.Minute}
	if l.bus, err = dbus.Connect(address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.bus.Close() })
	for _, name := range []string{logindName, systemdName} {
		if _, err := l.bus.RequestName(name, dbus.NameFlagDoNotQueue); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		l.bus.ExportMethodTable(map[string]any{"Inhibit": l.inhibit}, logindPath, logindManager),
		l.bus.ExportMethodTable(map[string]any{"Get": l.get}, logindPath, "org.freedesktop.DBus.Properties"),
		l.bus.ExportMethodTable(map[string]any{"KillUnit": l.killUnit}, systemdPath, systemdManager),
	); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *Logind) inhibit(what, who, why, mode string) (dbus.UnixFD, *dbus.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.going {
		return 0, dbus.MakeFailedError(errors.New("the operation inhibition has been requested for is already running"))
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	l.held, l.asked = ours, strings.Join([]string{what, who, why, mode}, "|")
	fd := dbus.UnixFD(theirs.Fd())
	time.AfterFunc(time.Second, func() { _ = theirs.Close() }) // sent by then
	return fd, nil
}

func (l *Logind) get(_, name string) (dbus.Variant, *dbus.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if name == "PreparingForShutdown" {
		return dbus.MakeVariant(l.going), nil
	}
	if name != "InhibitDelayMaxUSec" {
		return dbus.Variant{}, dbus.MakeFailedError(errors.New(name))
	}
	return dbus.MakeVariant(uint64(l.delay / time.Microsecond)), nil
}

func (l *Logind) killUnit(unit, _ string, signal int32) *dbus.Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if unit == "systemd-logind.service" && signal == 1 {
		l.delay = l.after
	}
	return nil
}

// SetDelay sets how long logind waits at most, now and once it was reloaded.
func (l *Logind) SetDelay(now, reloaded time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay, l.after = now, reloaded
}

// GoDown has logind say to all who ask that the machine goes down, and announces nothing.
func (l *Logind) GoDown() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.going = true
}

// Announce tells of a shutdown, or that it was called off.
func (l *Logind) Announce(t *testing.T, start bool) {
	t.Helper()
	if err := l.bus.Emit(logindPath, logindManager+".PrepareForShutdown", start); err != nil {
		t.Fatal(err)
	}
}

// Lock waits until somebody has taken a lock, and returns its other end, which ends when the lock is released, and what
// the lock was asked for with.
func (l *Logind) Lock(t *testing.T) (lock *os.File, asked string) {
	t.Helper()
	for range 200 {
		l.mu.Lock()
		held := l.held
		l.held, asked = nil, l.asked
		l.mu.Unlock()
		if held != nil {
			t.Cleanup(func() { _ = held.Close() })
			return held, asked
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("nothing inhibited shutdowns")
	return nil, ""
}
