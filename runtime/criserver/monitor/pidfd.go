package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Handle is a process that we are not the parent of. It goes on meaning that process after its
// PID was given to another.
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
	if h.Start, err = StartTime(pid); err == nil && start != 0 && h.Start != start {
		err = fmt.Errorf("open process %d: it is another one by now: %w", pid, unix.ESRCH)
	}
	if err != nil {
		h.file.Close()
		return nil, err
	}
	return h, nil
}

// StartTime reads when a process began.
func StartTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	_, rest, _ := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, fmt.Errorf("read start time of process %d: unknown format", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64) // field 22 of proc_pid_stat(5)
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
	err = raw.Read(func(fd uintptr) bool {
		n, pollErr := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || pollErr != nil && !errors.Is(pollErr, unix.EINTR)
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Ended tells whether the process is gone.
func (h *Handle) Ended() bool {
	return errors.Is(h.Signal(0), os.ErrProcessDone)
}

// Signal sends a signal; os.ErrProcessDone when there is nobody to get it.
func (h *Handle) Signal(signal syscall.Signal) error {
	raw, err := h.file.SyscallConn()
	if err != nil {
		return os.ErrProcessDone // closed after its end
	}
	var sendErr error
	if err := raw.Control(func(fd uintptr) { sendErr = unix.PidfdSendSignal(int(fd), signal, nil, 0) }); err != nil {
		return os.ErrProcessDone
	}
	if errors.Is(sendErr, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if sendErr != nil {
		return fmt.Errorf("send signal %d to process %d: %w", signal, h.PID, sendErr)
	}
	return nil
}

// Close lets go of the process.
func (h *Handle) Close() {
	if h != nil {
		h.file.Close()
	}
}
