package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Process is one program of the stack: a component or a kubelet.
type Process struct {
	Name    string
	LogPath string // stdout and stderr; appended to when a component restarts
	Args    []string

	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

// Pid is the process id, the same on the host as inside the stack.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends sig; a process that has ended already is not an error.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", sig, p.Name, err)
	}
	return nil
}

// Wait returns the process's exit error (nil for status 0), or ctx's.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", p.Name, ctx.Err())
	}
}

// Stop sends SIGTERM, then SIGKILL after grace, and waits for the end.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	}
	return p.Kill()
}

// Kill sends SIGKILL and waits for the end.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Log returns what the process has written so far.
func (p *Process) Log() string {
	data, err := os.ReadFile(p.LogPath)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// LogTail returns the last n lines of the log, for failure messages.
func (p *Process) LogTail(n int) string {
	lines := strings.Split(strings.TrimRight(p.Log(), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// enroll puts the shell into the stack's process cgroup before it becomes the
// program: whatever the program forks, and however it daemonizes, stays there,
// so that teardown finds it without guessing by name.
const enroll = `echo 0 > "$0" && exec "$@"`

// Spawn starts a program inside the stack's network namespace and cgroup.
func (s *Stack) Spawn(name string, args ...string) (*Process, error) {
	p := &Process{Name: name, LogPath: filepath.Join(s.Dir, "log", name+".log"), Args: args, done: make(chan struct{})}
	log, err := os.OpenFile(p.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", name, err)
	}
	defer log.Close()
	p.cmd = s.command(args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := s.ns.do(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// command prepares a program that dies with the stack.
func (s *Stack) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", append([]string{"-c", enroll, s.procsSeen()}, args...)...)
	cmd.Dir = s.Dir
	// sbin: iptables is not on every user's PATH.
	path := s.BinDir + ":" + os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin"
	cmd.Env = append(os.Environ(), "PATH="+path, "KUBECONFIG="+s.AdminKubeconfig)
	// A process group of its own: Ctrl-C in a terminal reaches the stack's owner
	// only, which then takes things down in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Exec runs a program inside the stack's network namespace to its end and
// returns its combined output.
func (s *Stack) Exec(ctx context.Context, args ...string) (string, error) {
	cmd := s.command(args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.ns.do(cmd.Start); err != nil {
		return "", fmt.Errorf("start %s: %w", args[0], err)
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("run %s: %w: %s", strings.Join(args, " "), errors.Join(err, ctx.Err()), out.String())
	}
	return out.String(), nil
}

// Kubectl runs the stack's kubectl as cluster admin.
func (s *Stack) Kubectl(ctx context.Context, args ...string) (string, error) {
	return s.Exec(ctx, append([]string{filepath.Join(s.BinDir, "kubectl")}, args...)...)
}
