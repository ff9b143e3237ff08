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
	"syscall"
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
func (r *Runtime) Exec(ctx context.Context, e Exec) (int32, error) {
	dir, err := os.MkdirTemp(e.TempDir, "exec-")
	if err != nil {
		return 0, fmt.Errorf("make directory for exec: %w", err)
	}
	defer os.RemoveAll(dir)
	args := []string{"--root=" + r.Root, "--log=" + filepath.Join(dir, runtimeLog), "--log-format=json"}
	if r.Systemd {
		args = append(args, "--systemd-cgroup")
	}
	args = append(args, "exec", "--pid-file", filepath.Join(dir, pidFile))
	group, arg := e.makeCgroup(filepath.Base(dir))
	if group != "" {
		defer os.Remove(group) // processes that stay behind keep it until the container ends
		args = append(args, "--cgroup="+arg)
	}
	if e.TTY {
		args = append(args, "--tty")
	}
	cmd := exec.Command(r.Path, append(append(args, e.ID), e.Command...)...)
	cmd.Env = environment()
	cmd.WaitDelay = drain
	finish, err := e.connect(cmd)
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		finish()
		return 0, fmt.Errorf("start %s exec: %w", r.Name(), err)
	}
	done := make(chan struct{})
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		select {
		case <-ctx.Done():
			killExec(group, filepath.Join(dir, pidFile), cmd.Process, done)
		case <-done:
		}
	}()
	err = cmd.Wait()
	close(done)
	<-killed
	finish()
	return r.execResult(ctx, err, cmd, dir)
}

// execResult tells a command that failed from one that could not be run.
func (r *Runtime) execResult(ctx context.Context, err error, cmd *exec.Cmd, dir string) (int32, error) {
	if ctx.Err() != nil {
		return 0, fmt.Errorf("%w: %w", ErrTimeout, ctx.Err())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
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

// connect gives the command its stdio. The function it returns closes what the parent holds.
func (e *Exec) connect(cmd *exec.Cmd) (finish func(), err error) {
	if !e.TTY {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Stdout, cmd.Stderr = e.Stdout, e.Stderr
		return e.pipeStdin(cmd)
	}
	master, slave, err := openPTY()
	if err != nil {
		return nil, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	// With the terminal as its own, runc hears of changes of size and passes them on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(discardIfNil(e.Stdout), master) // ends with EIO
	}()
	if e.Stdin != nil {
		go func() { _, _ = io.Copy(master, e.Stdin) }()
	}
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case size, ok := <-e.Resize:
				if !ok {
					return
				}
				resize(master, size)
			case <-stop:
				return
			}
		}
	}()
	return func() {
		slave.Close()
		select {
		case <-copied:
		case <-time.After(drain):
		}
		close(stop)
		master.Close()
	}, nil
}

// resize goes around File.Fd, which would make reads of the terminal hold up a thread.
func resize(terminal *os.File, size Size) {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
	})
}

// pipeStdin copies stdin in a goroutine that nobody waits for: a client may keep its stdin open
// long after the command has ended.
func (e *Exec) pipeStdin(cmd *exec.Cmd) (finish func(), err error) {
	if e.Stdin == nil {
		return func() {}, nil
	}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make stdin of exec: %w", err)
	}
	go func() {
		_, _ = io.Copy(pipe, e.Stdin)
		pipe.Close()
	}()
	return func() { pipe.Close() }, nil
}

func discardIfNil(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// openPTY makes a pseudo-terminal.
func openPTY() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open pseudo-terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("open pseudo-terminal: %w", err)
	}
	return master, slave, nil
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
