package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrTimeout is returned by Exec when it had to kill the command.
var ErrTimeout = errors.New("command timed out")

// drain is how long output may still come from children of a command that ended.
const drain = time.Second

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
	// Cgroup is the container's directory in a cgroup file system, and Controller what a runtime
	// calls that one on v1. The command gets a cgroup of its own below, by which all its processes
	// are found. Empty for a runtime that cannot do so.
	Cgroup, Controller string
}

// Size is one of a terminal.
type Size struct{ Width, Height uint16 }

// Exec runs a command in a container until it ends, and returns its exit code. When ctx ends
// first, every process of the command is killed and the error is ErrTimeout.
//
// When the cause of that is e.Hangup, nobody listens any more and the command is left alone: its terminal hangs up, or
// its pipes close, as ssh does it. One that ends neither by that nor by itself runs as long as its container.
func (r *Runtime) Exec(ctx context.Context, e Exec) (int32, error) {
	dir, err := os.MkdirTemp(e.TempDir, "exec-")
	if err != nil {
		return 0, fmt.Errorf("make directory for exec: %w", err)
	}
	args := []string{"--root=" + r.Root, "--log=" + filepath.Join(dir, runtimeLog), "--log-format=json"}
	if r.Systemd {
		args = append(args, "--systemd-cgroup")
	}
	args = append(args, "exec", "--pid-file", filepath.Join(dir, pidFile))
	group, arg := e.makeCgroup(filepath.Base(dir))
	if group != "" {
		args = append(args, "--cgroup="+arg)
	}
	if e.TTY {
		args = append(args, "--tty")
	}
	tidy := func() {
		if group != "" {
			_ = os.Remove(group) // processes that stay behind keep it until the container ends
		}
		_ = os.RemoveAll(dir)
	}
	cmd := exec.Command(r.Path, append(append(args, e.ID), e.Command...)...)
	cmd.Env = environment()
	stdio, err := e.connect(cmd)
	if err != nil {
		tidy()
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		stdio.hangUp()
		tidy()
		return 0, fmt.Errorf("start %s exec: %w", r.Name(), err)
	}
	stdio.started()
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = cmd.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		if e.Hangup != nil && errors.Is(context.Cause(ctx), e.Hangup) {
			stdio.hangUp()
			go func() { <-done; tidy() }()
			return 0, e.Hangup
		}
		killExec(group, filepath.Join(dir, pidFile), cmd.Process, done)
		<-done
	}
	stdio.drain()
	defer tidy()
	return r.execResult(ctx, err, cmd, dir)
}

// execResult tells a command that failed from one that could not be run.
func (r *Runtime) execResult(ctx context.Context, err error, cmd *exec.Cmd, dir string) (int32, error) {
	if ctx.Err() != nil {
		return 0, fmt.Errorf("%w: %w", ErrTimeout, ctx.Err())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("%s exec: %w", r.Name(), err)
	}
	code := cmd.ProcessState.ExitCode()
	if code < 0 {
		return 0, fmt.Errorf("%s exec: %w", r.Name(), err)
	}
	// Without a PID file the runtime never got as far as the command.
	if _, statErr := os.Stat(filepath.Join(dir, pidFile)); statErr != nil && code != 0 {
		return int32(code), fmt.Errorf("%s exec: %w", r.Name(), errors.Join(r.lastWords(dir), statNote(statErr)))
	}
	return int32(code), nil
}

func statNote(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("the command did not start")
	}
	return err
}

// makeCgroup makes the command's cgroup; "" when that cannot be.
func (e *Exec) makeCgroup(name string) (dir, argument string) {
	if e.Cgroup == "" {
		return "", ""
	}
	dir = filepath.Join(e.Cgroup, name)
	if os.Mkdir(dir, 0o755) != nil {
		return "", ""
	}
	if e.Controller != "" {
		return dir, e.Controller + ":/" + name
	}
	return dir, "/" + name
}

// killExec kills the command's processes, and runc too if it does not end by that.
func killExec(group, pidFile string, runc *os.Process, done <-chan struct{}) {
	kill := func() {
		if group != "" {
			killCgroup(group)
		} else if pid, err := readPID(pidFile); err == nil {
			killTree(pid)
		}
	}
	kill()
	select {
	case <-done:
	case <-time.After(2 * drain):
		kill()
		_ = runc.Kill()
	}
}

// killCgroup kills the processes of a cgroup until there are none.
func killCgroup(dir string) {
	if os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil {
		return // v2 does so at once
	}
	for range 100 {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil || len(text) == 0 {
			return
		}
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		time.Sleep(time.Millisecond) // nothing tells when a killed process has left
	}
}

// killTree kills a process, its descendants and its session (each exec has its own), until no
// new ones turn up.
func killTree(root int) {
	killed := map[int]bool{}
	for range 100 {
		more := false
		for _, pid := range family(root, killed) {
			if !killed[pid] {
				killed[pid], more = true, true
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if !more {
			return
		}
	}
}

// family finds a process, all that descend from it or from one of the dead, and its session.
func family(root int, dead map[int]bool) []int {
	parent, session := processes()
	var members []int
	for pid := range parent {
		for p, depth := pid, 0; p > 1 && depth < 1000; p, depth = parent[p], depth+1 {
			if p == root || dead[p] || session[p] == root {
				members = append(members, pid)
				break
			}
		}
	}
	return members
}

// processes reads the parent and the session of every process.
func processes() (parent, session map[int]int) {
	parent, session = map[int]int{}, map[int]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) > 3 {
			parent[pid], _ = strconv.Atoi(fields[1])
			session[pid], _ = strconv.Atoi(fields[3])
		}
	}
	return
}
