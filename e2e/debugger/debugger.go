// Package debugger runs this project's kubelet under dlv, for the walk and for tests.
package debugger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"minikubelet/e2e/stack"
)

// Env names the debugger. `make e2e`, `make walk` and `make debug` build it.
const Env = "E2E_DLV"

// Build makes a kubelet in which every line and variable can be found again. It is static as the released one is: at
// each stop of another, delve asks the dynamic linker's tables, through the thread that stopped before. When that was
// one of those that end with the making of namespaces, it is lost.
func Build(ctx context.Context, module, binary string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-tags=grpcnotrace", "-gcflags=all=-N -l", "-o", binary, "./cmd/kubelet")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the kubelet for the debugger: %w: %s", err, out)
	}
	return nil
}

// Wrap puts the debugger before a kubelet's command line. It listens there, HOST:PORT or unix:PATH, and holds the kubelet
// before its first instruction. more are further flags of dlv exec.
func Wrap(dlv, listen, binary string, more ...string) func(args []string) []string {
	return func(args []string) []string {
		command := append([]string{dlv, "exec", "--headless", "--listen=" + listen}, more...)
		return append(append(command, binary, "--"), args[1:]...)
	}
}

// WaitListening waits until the debugger listens. Its log tells; a connection to try would be its one client.
func WaitListening(ctx context.Context, k *stack.Kubelet) error {
	for !strings.Contains(k.Log(), "API server listening at") {
		select {
		case <-k.Done():
			return fmt.Errorf("dlv has ended; its log ends:\n%s", k.LogTail(20))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// Panicked is a stop that delve makes by itself.
const Panicked = "unrecovered-panic"

var stopLine = regexp.MustCompile(`> \[([\w-]+)\] \S+\(`)

// Follow runs the terminal of a debugger. At each stop at a named breakpoint it calls at, and types what that returns. It
// returns the stops and all that was printed.
func Follow(client *exec.Cmd, at func(stop string) (command string)) (stops []string, printed string, err error) {
	in, err := client.StdinPipe()
	if err != nil {
		return nil, "", err
	}
	out, err := client.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	client.Stderr = client.Stdout
	if err := client.Start(); err != nil {
		return nil, "", err
	}
	var all strings.Builder
	lines := bufio.NewScanner(io.LimitReader(out, 1<<20))
	for lines.Scan() {
		all.WriteString(lines.Text() + "\n")
		stop := stopLine.FindStringSubmatch(lines.Text())
		if stop == nil {
			continue
		}
		stops = append(stops, stop[1])
		command := "stack 30\nquit\n"
		if stop[1] != Panicked {
			command = at(stop[1])
		}
		if _, writeErr := io.WriteString(in, command); writeErr != nil {
			err = errors.Join(err, writeErr)
		}
	}
	if waitErr := client.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("dlv: %w", waitErr))
	}
	return stops, all.String(), err
}
