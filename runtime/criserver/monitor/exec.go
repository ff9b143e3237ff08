package monitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// ErrTimeout is returned by Exec when it had to kill the command.
var ErrTimeout = errors.New("command timed out")

// drainTime is how long output may still come from children of a command that ended.
const drainTime = time.Second

// Exec describes a command to run in a container, with the container's environment and user.
type Exec struct {
	ID             string
	Command        []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	Resize         <-chan Size
	Hangup         error  // a cause of the context's end; nil if there is none that leaves the command alone
	TempDir        string // for a PID file
	// Cgroup is the container's directory in a cgroup file system, and Controller what a runtime calls that one on v1. The
	// command gets a cgroup of its own below, by which all its processes are found. Empty for a runtime that cannot do so.
	Cgroup, Controller string
}

// Size is one of a terminal.
type Size = remotecommand.TerminalSize

// execution is a command that the runtime's program runs in a container.
type execution struct {
	cmd          *exec.Cmd
	dir          string        // of its PID file and the runtime's log
	group        string        // its cgroup; "" without one
	ours, theirs []*os.File    // ends of pipes, or of a terminal
	hungUp       chan struct{} // closed with our ends
	output       sync.WaitGroup
	done         chan struct{} // closed at the program's end
	err          error         // of the program then
}

// Exec runs a command in a container until it ends, and returns its exit code. When ctx ends
// first, every process of the command is killed and the error is ErrTimeout.
//
// When the cause of that is e.Hangup, the client has gone and the command is left alone: its terminal hangs up, or
// its pipes close, as ssh does it. One that ends neither by that nor by itself runs as long as its container.
func (r *Runtime) Exec(ctx context.Context, e Exec) (int32, error) {
	x := &execution{hungUp: make(chan struct{}), done: make(chan struct{})}
	if err := x.start(r, e); err != nil {
		x.hangUp()
		x.destroy()
		return 0, err
	}
	go func() {
		defer close(x.done)
		x.err = x.cmd.Wait()
	}()
	timedOut := false
	select {
	case <-x.done:
	case <-ctx.Done():
		if e.Hangup != nil && errors.Is(context.Cause(ctx), e.Hangup) {
			x.hangUp()
			go func() { <-x.done; x.destroy() }()
			return 0, e.Hangup
		}
		timedOut = true
		x.kill()
	}
	x.drain()
	defer x.destroy()
	if timedOut { // a deadline that passes while the rest of the output comes does not count
		return 0, fmt.Errorf("%w: %w", ErrTimeout, ctx.Err())
	}
	return x.result(r)
}

// start makes the directory, the cgroup and the stdio of a command and starts the runtime's program.
func (x *execution) start(r *Runtime, e Exec) (err error) {
	if x.dir, err = os.MkdirTemp(e.TempDir, "exec-"); err != nil {
		return fmt.Errorf("make directory for exec: %w", err)
	}
	args := append(r.arguments(x.dir), "exec", "--pid-file", filepath.Join(x.dir, pidFile))
	if e.Cgroup != "" {
		name := "/" + filepath.Base(x.dir)
		if os.Mkdir(e.Cgroup+name, 0o755) == nil {
			x.group = e.Cgroup + name
			if e.Controller != "" {
				name = e.Controller + ":" + name
			}
			args = append(args, "--cgroup="+name)
		}
	}
	if e.TTY {
		args = append(args, "--tty")
	}
	x.cmd = exec.Command(r.Path, append(append(args, e.ID), e.Command...)...)
	x.cmd.Env = environment()
	if err = x.connect(e); err == nil {
		err = x.cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("start %s exec: %w", r.Name(), err)
	}
	closeAll(x.theirs)
	return nil
}

// result tells a command that failed from one that could not be run.
func (x *execution) result(r *Runtime) (int32, error) {
	code := x.cmd.ProcessState.ExitCode()
	if code < 0 || x.err != nil && code == 0 {
		return 0, fmt.Errorf("%s exec: %w", r.Name(), x.err)
	}
	// Without a PID file the runtime never got as far as the command.
	if _, err := readPID(filepath.Join(x.dir, pidFile)); err != nil && code != 0 {
		return int32(code), fmt.Errorf("%s exec: the command did not start: %w", r.Name(), cmp.Or(r.loggedError(x.dir), err))
	}
	return int32(code), nil
}

// kill kills the command's processes, and the runtime's program too if it does not end by that.
func (x *execution) kill() {
	x.killProcesses()
	select {
	case <-x.done:
	case <-time.After(2 * drainTime):
		x.killProcesses()
		_ = x.cmd.Process.Kill()
		<-x.done
	}
}

func (x *execution) killProcesses() {
	if x.group != "" {
		ctx, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		_ = RemoveCgroup(ctx, x.group)
	} else if pid, err := readPID(filepath.Join(x.dir, pidFile)); err == nil {
		killTree(pid)
	}
}

// destroy removes what an ended command has left. It may be called again. Processes that the command started keep its
// cgroup until the container ends.
func (x *execution) destroy() {
	if x.group != "" {
		_ = os.Remove(x.group)
	}
	_ = os.RemoveAll(x.dir)
}
