// Package monitor runs containers: it starts the OCI runtime (runc, crun) and conmon, the process that stays beside each
// container, keeps its stdio and log, and writes down how it ended. Neither needs this server to live on.
package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"minikubelet/runtime/criserver/bounded"
)

const (
	pidFile    = "pid"        // of the container's first process, written by the OCI runtime
	conmonFile = "conmon.pid" // written by conmon's parent
	exitFile   = "exit"       // exit code, written by conmon
	oomFile    = "oom"        // made by conmon
	runtimeLog = "runtime.log"

	maxMessage = 64 << 10 // of what conmon and runtimes say of themselves
)

// Conmon is the conmon program.
type Conmon struct {
	Path string
	// TempDir holds console sockets for a moment; it must be short. Empty for /tmp.
	TempDir string
}

// Container says what conmon is to monitor.
type Container struct {
	ID      string
	Bundle  string // with config.json; conmon's files go here too
	LogPath string // CRI log file, or "" for none
	Stdin   bool
	// StdinOnce closes the container's stdin when the first attached client goes.
	StdinOnce bool
	TTY       bool
}

// Create lets conmon run the runtime, which creates the container. It returns the PIDs of conmon and of the container's first
// process, which then waits to be started. On error the caller destroys what may be there.
func (c *Conmon) Create(ctx context.Context, r *Runtime, container Container) (pid, conmon int, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return 0, 0, fmt.Errorf("make pipe to conmon: %w", err)
	}
	defer read.Close()
	stderr := &bounded.Buffer{Limit: maxMessage}
	cmd := exec.CommandContext(ctx, c.Path, c.arguments(r, container)...)
	cmd.Dir = container.Bundle // where conmon notes that memory ran out
	cmd.Env = append(environment(), "_OCI_SYNCPIPE=3")
	if c.TempDir != "" {
		cmd.Env = append(cmd.Env, "TMPDIR="+c.TempDir)
	}
	cmd.ExtraFiles = []*os.File{write}
	cmd.Stderr = stderr
	// A signal to the server's process group, as of Ctrl-C in a terminal, is not for containers.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// This ends when conmon has forked itself away.
	err = cmd.Run()
	write.Close()
	if err != nil {
		return 0, 0, fmt.Errorf("start conmon: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	// A message comes once the runtime is done, or the end of the file when conmon fails.
	stop := context.AfterFunc(ctx, func() { _ = read.SetReadDeadline(time.Now()) })
	defer stop()
	var message struct {
		Data    int    `json:"data"`
		Message string `json:"message"`
	}
	if err := json.NewDecoder(io.LimitReader(read, maxMessage)).Decode(&message); err != nil {
		return 0, 0, errors.Join(fmt.Errorf("create container with %s: conmon gave no answer: %w", r.Name(), err), ctx.Err(), r.loggedError(container.Bundle))
	}
	if message.Data <= 0 {
		return 0, 0, fmt.Errorf("create container with %s: %s", r.Name(), runtimeError(message.Message))
	}
	conmon, err = readPID(filepath.Join(container.Bundle, conmonFile))
	return message.Data, conmon, err
}

func (c *Conmon) arguments(r *Runtime, container Container) []string {
	args := []string{
		"--api-version", "1", "-c", container.ID, "-u", container.ID, "-n", container.ID,
		"-r", r.Path, "-b", container.Bundle,
		"-p", filepath.Join(container.Bundle, pidFile), "-P", filepath.Join(container.Bundle, conmonFile),
		"--persist-dir", container.Bundle, "--full-attach", "--no-sync-log", "--log-level", "error",
	}
	for _, arg := range r.arguments(container.Bundle) {
		args = append(args, "--runtime-arg", arg)
	}
	if container.LogPath == "" {
		args = append(args, "-l", "none")
	} else {
		args = append(args, "-l", "k8s-file:"+container.LogPath)
	}
	if container.TTY {
		args = append(args, "-t")
	}
	if container.Stdin {
		args = append(args, "-i")
		if !container.StdinOnce {
			args = append(args, "--leave-stdin-open")
		}
	}
	return args
}

// Exit is how a container ended.
type Exit struct {
	Code       int32
	FinishedAt time.Time
	OOM        bool
}

// ReadExit returns what conmon wrote when the container ended; fs.ErrNotExist when it has not, or when conmon was killed.
func ReadExit(bundle string) (Exit, error) {
	path := filepath.Join(bundle, exitFile)
	var code int64
	data, err := os.ReadFile(path)
	if err == nil {
		code, err = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 32)
	}
	info, statErr := os.Stat(path)
	if err = errors.Join(err, statErr); err != nil {
		return Exit{}, fmt.Errorf("read exit code: %w", err)
	}
	_, err = os.Stat(filepath.Join(bundle, oomFile))
	return Exit{Code: int32(code), FinishedAt: info.ModTime(), OOM: err == nil}, nil
}

// FindProcess reads the PIDs of a container from the files of its bundle.
func FindProcess(bundle string) (pid, conmon int, err error) {
	pid, err = readPID(filepath.Join(bundle, pidFile))
	conmon, conmonErr := readPID(filepath.Join(bundle, conmonFile))
	return pid, conmon, errors.Join(err, conmonErr)
}

func readPID(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read PID: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("read PID from %s: %q is none", path, data)
	}
	return pid, nil
}

// HearHangup keeps the programs in containers from ignoring SIGHUP, as they would when this process was started by nohup:
// a signal that is heard is the default in new programs. This process goes on ignoring it, since the channel has no reader.
func HearHangup() {
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
}

// environment is what conmon and the runtimes get of ours. A runtime written in Go ends before collecting garbage, or
// running threads in parallel, would pay.
func environment() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GOGC=400", "GOMAXPROCS=1"}
	for _, name := range []string{"DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"} {
		if value := os.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// runtimeError makes what a runtime logged as JSON or plain text readable.
func runtimeError(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return "no reason given"
	}
	for line := range strings.Lines(text) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Level == "error" {
			return entry.Msg
		}
	}
	return text
}

// loggedError is the error that a runtime wrote to its log, or nil.
func (r *Runtime) loggedError(bundle string) error {
	text, err := bounded.ReadFile(filepath.Join(bundle, runtimeLog), maxMessage)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || len(text) == 0 {
		return err
	}
	return errors.New(runtimeError(string(text)))
}
