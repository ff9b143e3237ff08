package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"minikubelet/e2e/stack"
)

// dlvEnv names the debugger. `make e2e` and `make walk` build it.
const dlvEnv = "E2E_DLV"

// options say what to walk with.
type options struct {
	bin, dlv string // the stack's programs, and the debugger
	module   string // directory of this module
	progress func(format string, args ...any)
}

// walk is a kubelet with the embedded runtime, which a debugger holds before its first instruction, and around it what
// it needs to run a pod.
type walk struct {
	*stack.Stack
	kubelet *stack.Kubelet // the debugger that has it
	dlv     string
}

// start builds the kubelet for the debugger, and starts both.
func start(ctx context.Context, o options) (_ *walk, err error) {
	s, err := stack.Start(ctx, stack.Options{BinDir: o.bin, Runtime: stack.Embedded, NoControlPlane: true, Progress: o.progress})
	if err != nil {
		return nil, err
	}
	w := &walk{Stack: s, dlv: o.dlv}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	o.progress("building the kubelet for the debugger")
	binary := filepath.Join(s.Dir, "kubelet.debug")
	if err := build(ctx, o.module, binary); err != nil {
		return nil, err
	}
	o.progress("starting the debugger")
	s.KubeletBinary = binary
	w.kubelet, err = s.StartKubelet(stack.KubeletOptions{Standalone: true, Wrap: func(args []string) []string {
		// A socket, not a port: it is nobody else's, and can be reached from outside of the network namespace.
		debug := []string{w.dlv, "exec", "--headless", "--listen=unix:" + w.socket(), binary, "--"}
		return append(debug, args[1:]...)
	}})
	if err != nil {
		return nil, err
	}
	return w, w.waitDebugger(ctx)
}

// build makes a kubelet in which every line and variable can be found again. It is static as the released one is: at
// each stop of another, delve asks the dynamic linker's tables, through the thread that stopped before. When that was
// one of those that end with the making of namespaces, it is lost.
func build(ctx context.Context, module, binary string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-tags=grpcnotrace", "-gcflags=all=-N -l", "-o", binary, "./cmd/kubelet")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the kubelet for the debugger: %w: %s", err, out)
	}
	return nil
}

func (w *walk) socket() string { return filepath.Join(w.Dir, "dlv.sock") }

// waitDebugger waits until the debugger listens. Its log tells; a connection to try would be its one client.
func (w *walk) waitDebugger(ctx context.Context) error {
	for !strings.Contains(w.kubelet.Log(), "API server listening at") {
		select {
		case <-w.kubelet.Done():
			return fmt.Errorf("dlv has ended; its log ends:\n%s", w.kubelet.LogTail(20))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// client is the debugger's terminal, which begins with a script.
func (w *walk) client(ctx context.Context, script string) *exec.Cmd {
	return exec.CommandContext(ctx, w.dlv, "connect", "unix:"+w.socket(), "--init", script)
}

// deploy gives the kubelet the manifest of a static pod.
func (w *walk) deploy(manifest []byte) error {
	return os.WriteFile(filepath.Join(w.ManifestDir(), "walk.yaml"), manifest, 0o644)
}

// close ends the kubelet, wherever the debugger holds it, and takes down what is left of its pod.
func (w *walk) close() error {
	var err error
	if w.kubelet != nil {
		err = w.kubelet.Kill()
	}
	return errors.Join(err, w.Close())
}
