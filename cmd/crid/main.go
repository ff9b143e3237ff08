// Command crid is the embedded CRI server on its own: for crictl, critest, or a kubelet in
// another process. SIGTERM ends it and leaves containers running; the next start takes them over.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "crid:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	options, address, err := parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("running pods needs root")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// Users of containers read resolv.conf and hostname, whatever umask the server was started with.
	syscall.Umask(0o022)
	listener, release, err := listen(address)
	if err != nil {
		return err
	}
	defer release()
	server, err := criserver.New(ctx, options)
	if err != nil {
		return err
	}
	return server.Serve(ctx, listener)
}

// listen makes the socket, for root only. A lock beside it tells a socket in use from what a
// server that was killed left.
func listen(address string) (net.Listener, func(), error) {
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok || !filepath.IsAbs(path) {
		return nil, nil, fmt.Errorf("--listen=%s: the CRI is served on a unix socket, as in unix:///run/minikubelet/crid.sock", address)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, fmt.Errorf("make directory of socket: %w", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open lock of socket: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, nil, fmt.Errorf("lock %s: another server uses the socket: %w", lock.Name(), err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		lock.Close()
		return nil, nil, fmt.Errorf("remove old socket: %w", err)
	}
	old := syscall.Umask(0o177)
	listener, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		lock.Close()
		return nil, nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return listener, func() { listener.Close(); lock.Close() }, nil
}

func init() {
	klog.InitFlags(flag.CommandLine)
}
