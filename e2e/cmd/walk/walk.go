package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"minikubelet/e2e/debugger"
	"minikubelet/e2e/stack"
)

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
	if err := debugger.Build(ctx, o.module, binary); err != nil {
		return nil, err
	}
	o.progress("starting the debugger")
	s.KubeletBinary = binary
	// The debugger listens on a unix socket: unlike a port it cannot be taken already, and it is reached from outside of the
	// network namespace.
	wrap := debugger.Wrap(w.dlv, "unix:"+w.socket(), binary)
	w.kubelet, err = s.StartKubelet(stack.KubeletOptions{Standalone: true, Wrap: wrap})
	if err != nil {
		return nil, err
	}
	return w, debugger.WaitListening(ctx, w.kubelet)
}

func (w *walk) socket() string { return filepath.Join(w.Dir, "dlv.sock") }

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
