// Command walk is `make walk`: a kubelet with the embedded runtime under a debugger that stops at each step of
// docs/walk.md, in a network namespace of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"minikubelet/e2e/debugger"
	"minikubelet/e2e/stack"
)

func main() {
	bin := flag.String("bin", os.Getenv(stack.BinEnv), "directory of the stack's programs")
	dlv := flag.String("dlv", os.Getenv(debugger.Env), "path of dlv")
	flag.Parse()
	if err := run(*bin, *dlv); err != nil {
		fmt.Fprintln(os.Stderr, "walk:", err)
		os.Exit(1)
	}
}

// run walks in the terminal until the user quits. Ctrl-C is the debugger's: it stops the kubelet where it stands.
func run(bin, dlv string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	module, err := os.Getwd()
	if err != nil {
		return err
	}
	began := time.Now()
	w, err := start(ctx, options{bin: bin, dlv: dlv, module: module, progress: func(format string, args ...any) {
		fmt.Printf("%7.2fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	pod, err := os.ReadFile(filepath.Join(module, "docs", "walk.yaml"))
	if err != nil {
		return err
	}
	if err := w.deploy(pod); err != nil {
		return err
	}
	stop()
	signal.Ignore(os.Interrupt)
	fmt.Printf("\ndocs/walk.md says what happens at each stop. continue (c) goes to the next one, quit (q) ends the walk.\n"+
		"The kubelet's log is %s, its network %s.\n\n", w.kubelet.LogPath, w.NetnsPath())
	client := w.client(context.Background(), filepath.Join(module, "docs", "walk.dlv"))
	client.Stdin, client.Stdout, client.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := client.Run(); err != nil {
		return fmt.Errorf("dlv: %w", err)
	}
	return nil
}
