package monitor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stdio is what connects a command's input and output with a client's.
type stdio struct {
	ours, theirs []*os.File // ends of pipes, or of a terminal
	stop         chan struct{}
	output       sync.WaitGroup
}

// connect gives the command its stdio.
func (e *Exec) connect(cmd *exec.Cmd) (*stdio, error) {
	s := &stdio{stop: make(chan struct{})}
	connect := e.pipes
	if e.TTY {
		connect = e.terminal
	}
	if err := connect(cmd, s); err != nil {
		s.hangUp()
		return nil, err
	}
	return s, nil
}

// terminal connects the command with a terminal, which is runc's own: it hears of changes of size and passes them on.
func (e *Exec) terminal(cmd *exec.Cmd, s *stdio) error {
	master, slave, err := openPTY()
	if err != nil {
		return err
	}
	s.ours, s.theirs = append(s.ours, master), append(s.theirs, slave)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	s.copyOutput(e.Stdout, master) // ends with EIO
	if e.Stdin != nil {
		go func() { _, _ = io.Copy(master, e.Stdin) }()
	}
	go func() {
		for {
			select {
			case size, ok := <-e.Resize:
				if !ok {
					return
				}
				resize(master, size)
			case <-s.stop:
				return
			}
		}
	}()
	return nil
}

// pipes connects the command with a pipe for each of the client's streams. Exec does not wait for the goroutine that copies
// stdin: a client may keep its end open long after the command has ended.
func (e *Exec) pipes(cmd *exec.Cmd, s *stdio) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if e.Stdin != nil {
		read, write, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("make pipe for exec: %w", err)
		}
		s.ours, s.theirs = append(s.ours, write), append(s.theirs, read)
		cmd.Stdin = read
		go func() {
			_, _ = io.Copy(write, e.Stdin)
			_ = write.Close()
		}()
	}
	for _, out := range []struct {
		to   io.Writer
		file *io.Writer
	}{{e.Stdout, &cmd.Stdout}, {e.Stderr, &cmd.Stderr}} {
		if out.to == nil {
			continue
		}
		read, write, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("make pipe for exec: %w", err)
		}
		s.ours, s.theirs = append(s.ours, read), append(s.theirs, write)
		*out.file = write
		s.copyOutput(out.to, read)
	}
	return nil
}

// copyOutput copies to a client, if there is one, until the command has closed its end or the client takes no more.
// The command finds out at its next write.
func (s *stdio) copyOutput(to io.Writer, from *os.File) {
	if to == nil {
		to = io.Discard
	}
	s.output.Go(func() {
		_, _ = io.Copy(to, from)
		_ = from.Close()
	})
}

// started closes what the command has inherited.
func (s *stdio) started() {
	for _, file := range s.theirs {
		_ = file.Close()
	}
}

// drain waits for the rest of an ended command's output, and hangs up. Children of it may hold its end open.
func (s *stdio) drain() {
	copied := make(chan struct{})
	go func() { defer close(copied); s.output.Wait() }()
	select {
	case <-copied:
	case <-time.After(drain):
	}
	s.hangUp()
}

// hangUp closes everything.
func (s *stdio) hangUp() {
	close(s.stop)
	s.started()
	for _, file := range s.ours {
		_ = file.Close()
	}
}

// resize goes around File.Fd, which would make the terminal block: see openPTY.
func resize(terminal *os.File, size Size) {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
	})
}

// openPTY makes a pseudo-terminal. The one that creack/pty makes blocks: each reader would hold a thread, and closing the
// terminal, which is how a command hears that its client has gone, would wait for the reader.
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
		return nil, nil, errors.Join(fmt.Errorf("open pseudo-terminal: %w", err), master.Close())
	}
	return master, slave, nil
}
