package shutdown

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/renameio/v2"
	"k8s.io/klog/v2"
)

const (
	logindName    = "org.freedesktop.login1"
	logindPath    = dbus.ObjectPath("/org/freedesktop/login1")
	logindManager = "org.freedesktop.login1.Manager"

	systemdName    = "org.freedesktop.systemd1"
	systemdPath    = dbus.ObjectPath("/org/freedesktop/systemd1")
	systemdManager = "org.freedesktop.systemd1.Manager"

	// confDir is where logind reads its settings from, confFile upstream's name of the kubelet's.
	confDir  = "/etc/systemd/logind.conf.d"
	confFile = "99-kubelet.conf"
)

// logind is a connection to systemd-logind, which announces that the machine will go down and waits for the programs that asked
// it to, up to a limit.
//
// Upstream: pkg/kubelet/nodeshutdown/systemd/inhibit_linux.go DBusCon.
type logind struct {
	bus     *dbus.Conn
	confDir string
	lock    *os.File // while it is open the machine does not go down; nil if it is not held
}

// connect connects to the system bus. The connection ends with ctx.
func connect(ctx context.Context, confDir string) (*logind, error) {
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	return &logind{bus: bus, confDir: confDir}, nil
}

func (l *logind) close() error { return errors.Join(l.release(), l.bus.Close()) }

// property reads a property of logind.
func property[T any](l *logind, name string) (value T, err error) {
	variant, err := l.bus.Object(logindName, logindPath).GetProperty(logindManager + "." + name)
	if err == nil {
		err = variant.Store(&value)
	}
	if err != nil {
		return value, fmt.Errorf("read %s of logind: %w", name, err)
	}
	return value, nil
}

// delay is how long logind waits at most.
func (l *logind) delay() (time.Duration, error) {
	usec, err := property[uint64](l, "InhibitDelayMaxUSec")
	return time.Duration(min(usec, uint64(1<<62/time.Microsecond))) * time.Microsecond, err
}

// extend has logind wait for as long as is wanted.
func (l *logind) extend(ctx context.Context, want time.Duration) error {
	have, err := l.delay()
	if err != nil || have >= want {
		return err
	}
	if err := l.writeDelay(want); err != nil {
		return fmt.Errorf("set InhibitDelayMaxSec of logind: %w", err)
	}
	const sighup = int32(1)
	reload := l.bus.Object(systemdName, systemdPath).CallWithContext(ctx, systemdManager+".KillUnit", 0, "systemd-logind.service", "all", sighup)
	if reload.Err != nil {
		return fmt.Errorf("have logind read its settings again: %w", reload.Err)
	}
	// It does so in its own time and does not tell.
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		if have, err = l.delay(); err != nil || have >= want {
			return err
		}
		if wait > time.Second {
			return fmt.Errorf("logind waits for %v at most, although its setting in %s is %v", have, filepath.Join(l.confDir, confFile), want)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// writeDelay writes logind's setting.
func (l *logind) writeDelay(want time.Duration) error {
	text := fmt.Sprintf("# Written by the kubelet: its shutdownGracePeriod.\n[Login]\nInhibitDelayMaxSec=%.0f\n", want.Seconds())
	if err := os.MkdirAll(l.confDir, 0o755); err != nil {
		return err
	}
	// logind reads files whose names end in .conf; those of temporary files do not.
	return renameio.WriteFile(filepath.Join(l.confDir, confFile), []byte(text), 0o644, renameio.WithTempDir(l.confDir), renameio.WithStaticPermissions(0o644))
}

// inhibit takes the lock that makes logind wait, in place of the one held.
func (l *logind) inhibit(ctx context.Context) error {
	var fd dbus.UnixFD
	call := l.bus.Object(logindName, logindPath).CallWithContext(ctx, logindManager+".Inhibit", 0,
		"shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay")
	if err := call.Store(&fd); err != nil {
		return fmt.Errorf("inhibit shutdown: %w", err)
	}
	err := l.release()
	l.lock = os.NewFile(uintptr(fd), "inhibitor")
	return err
}

// release lets the machine go down.
func (l *logind) release() error {
	lock := l.lock
	if l.lock = nil; lock == nil {
		return nil
	}
	if err := lock.Close(); err != nil {
		return fmt.Errorf("release the inhibitor: %w", err)
	}
	return nil
}

// watch tells of announcements: true for a shutdown, false for one that was called off. The channel is closed when the
// connection ends.
func (l *logind) watch(ctx context.Context) (<-chan bool, error) {
	if err := l.bus.AddMatchSignalContext(ctx, dbus.WithMatchInterface(logindManager), dbus.WithMatchMember("PrepareForShutdown"),
		dbus.WithMatchObjectPath(logindPath), dbus.WithMatchSender(logindName)); err != nil {
		return nil, fmt.Errorf("watch for shutdowns: %w", err)
	}
	signals, announced := make(chan *dbus.Signal, 10), make(chan bool)
	l.bus.Signal(signals)
	go func() {
		defer close(announced)
		for signal := range signals {
			if signal.Name != logindManager+".PrepareForShutdown" {
				continue
			}
			var start bool
			if err := dbus.Store(signal.Body, &start); err != nil {
				klog.FromContext(ctx).Error(err, "Shutdown: cannot read the announcement")
				continue
			}
			select {
			case announced <- start:
			case <-ctx.Done():
				return
			}
		}
	}()
	return announced, nil
}
