// Command kubelet runs pods from an apiserver, from files and from a URL on this machine,
// through a container runtime that speaks the CRI.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"minikubelet/kubelet"
	"minikubelet/kubelet/hold"
	"minikubelet/kubelet/lock"
	"minikubelet/kubelet/settings"
)

// gcPercent is half of Go's default: a kubelet allocates little, and its memory is its node's.
const gcPercent = 50

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if len(os.Args) > 1 && os.Args[1] == hold.Command { // part: debug hold, kubelet/hold
		if err := hold.Main(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "kubelet:", err)
			os.Exit(1)
		}
		return
	}
	if c := find(os.Args[1:]); c != nil { // part: local socket, kubelet/local
		c.main(os.Args[2:])
		return
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kubelet:", err)
		klog.Flush()
		os.Exit(1)
	}
	klog.Flush()
}

// run is the whole program: flags and files become settings, settings a kubelet, and the
// kubelet runs until the first SIGTERM or SIGINT. A second signal ends it at once.
func run(args []string) error {
	s, err := settings.Load(args, os.Stdout)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		help(os.Stdout) // part: local socket, kubelet/local
		return nil
	case errors.Is(err, settings.ErrVersion):
		return nil
	case err != nil:
		return err
	}
	if !*s.EnableProfilingHandler {
		runtime.MemProfileRate = 0 // no handler serves the heap profile
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	if s.LockFile != "" { // part: lock file, kubelet/lock
		if err := takeLock(ctx, s, stop); err != nil {
			return err
		}
	}
	k, err := kubelet.New(ctx, kubelet.Options{Settings: s})
	if err != nil {
		return err
	}
	if s.RunOnce {
		return k.RunOnce(ctx, os.Stdout)
	}
	return k.Run(ctx)
}

// takeLock waits for the lock file, and has another process that opens it end this one if that is asked for.
func takeLock(ctx context.Context, s *settings.Settings, end func()) error {
	if err := lock.Acquire(ctx, s.LockFile); err != nil {
		return err
	}
	if !s.ExitOnLockContention {
		return nil
	}
	return lock.Watch(s.LockFile, end)
}
