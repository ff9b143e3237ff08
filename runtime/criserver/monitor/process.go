package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Handle is a process that we are not the parent of. It goes on meaning that process after its PID was given to another.
type Handle struct {
	file *os.File
	PID  int
	// Start is the process's start time in clock ticks since boot.
	Start uint64
}

// Open gets hold of a process. A start time other than 0 must match.
func Open(pid int, start uint64) (*Handle, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	h := &Handle{file: os.NewFile(uintptr(fd), "pidfd"), PID: pid}
	// Looked at after opening: what is compared is what was opened.
	process, err := procfs.NewProc(pid)
	if err == nil {
		var stat procfs.ProcStat
		stat, err = process.Stat()
		h.Start = stat.Starttime
	}
	if err == nil && start != 0 && h.Start != start {
		err = unix.ESRCH // it is another one by now
	}
	if err != nil {
		h.file.Close()
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	return h, nil
}

// Wait returns when the process has ended, or with the context's error. No thread waits: the
// kernel tells the Go runtime's poller.
func (h *Handle) Wait(ctx context.Context) error {
	raw, err := h.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", h.PID, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = h.file.SetReadDeadline(time.Now()) })
	defer stop()
	err = raw.Read(readable)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// readable tells whether a read would not wait.
func readable(fd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
}

// Signal sends a signal; os.ErrProcessDone when the process has ended, and so its handle may be closed.
func (h *Handle) Signal(signal syscall.Signal) error {
	err := error(unix.ESRCH)
	if raw, closed := h.file.SyscallConn(); closed == nil {
		_ = raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), signal, nil, 0) })
	}
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("send signal %d to process %d: %w", signal, h.PID, err)
	}
	return nil
}

// Close lets go of the process.
func (h *Handle) Close() {
	if h != nil {
		h.file.Close()
	}
}

// RemoveCgroup kills the processes of a cgroup, and of those that it made below, and removes it, once they have left. One
// that is not there is no error.
func RemoveCgroup(ctx context.Context, dir string) error {
	for {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) // v2 kills all at once
		pids, _ := cgroups.GetAllPids(dir)
		for _, pid := range pids {
			if pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		// This waits a moment, since a killed process leaves its cgroup later, and no event tells.
		err := cgroups.RemovePath(dir)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || ctx.Err() != nil {
			return fmt.Errorf("remove cgroup: %w", errors.Join(err, ctx.Err()))
		}
	}
}

// killTree kills a process, its descendants and its session (each exec has its own), until no new ones turn up.
func killTree(root int) {
	killed := map[int]bool{}
	for range 100 {
		found := family(root, killed)
		if len(found) == 0 {
			return
		}
		for _, pid := range found {
			killed[pid] = true
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// family finds a process, its session, and the descendants of these and of dead processes. The dead are left out.
func family(root int, dead map[int]bool) (members []int) {
	children := map[int][]int{}
	var next []int
	processes, _ := procfs.AllProcs()
	for _, process := range processes {
		if stat, err := process.Stat(); err == nil {
			children[stat.PPID] = append(children[stat.PPID], stat.PID)
			if stat.PID == root || stat.Session == root || dead[stat.PPID] {
				next = append(next, stat.PID)
			}
		}
	}
	for ; len(next) > 0; next = next[1:] {
		if pid := next[0]; !dead[pid] && !slices.Contains(members, pid) {
			members = append(members, pid)
			next = append(next, children[pid]...)
		}
	}
	return members
}
