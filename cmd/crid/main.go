// Command crid is the embedded CRI server on its own: for crictl, critest, or a kubelet in
// another process. SIGTERM ends it and leaves containers running; the next start takes them over.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/tracing/otlp"
	"minikubelet/runtime/criserver"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "crid:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	s, err := parse(args)
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
	if s.spans != nil {
		host, err := os.Hostname()
		if err != nil {
			return err
		}
		provider, err := otlp.Use(ctx, "crid", host, s.spans, nil)
		if err != nil {
			return err
		}
		defer otlp.Stop(provider)
	}
	listener, release, err := criserver.Listen(s.address)
	if err != nil {
		return err
	}
	defer release()
	server, err := criserver.New(ctx, s.Options)
	if err != nil {
		return err
	}
	return server.Serve(ctx, listener)
}

func init() {
	klog.InitFlags(flag.CommandLine)
}
