package monitor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// connect gives the command its stdio: a terminal, or a pipe for each of the client's streams.
func (x *execution) connect(e Exec) error {
	if e.TTY {
		return x.connectTerminal(e)
	}
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if e.Stdin != nil {
		read, write, err := os.Pipe()
		if err != nil {
			return err
		}
		x.ours, x.theirs, x.cmd.Stdin = append(x.ours, write), append(x.theirs, read), read
		// Exec does not wait for this: a client may keep its end open long after the command has ended.
		go func() {
			_, _ = io.Copy(write, e.Stdin)
			_ = write.Close()
		}()
	}
	return errors.Join(x.outputPipe(e.Stdout, &x.cmd.Stdout), x.outputPipe(e.Stderr, &x.cmd.Stderr))
}

func (x *execution) outputPipe(to io.Writer, file *io.Writer) error {
	if to == nil {
		return nil
	}
	read, write, err := os.Pipe()
	if err == nil {
		x.ours, x.theirs, *file = append(x.ours, read), append(x.theirs, write), write
		x.copyOutput(to, read)
	}
	return err
}

// connectTerminal connects the command with a terminal, which is runc's own: it hears of changes of size and passes them on.
func (x *execution) connectTerminal(e Exec) error {
	master, slave, err := openPTY()
	if err != nil {
		return err
	}
	x.ours, x.theirs = append(x.ours, master), append(x.theirs, slave)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	x.copyOutput(e.Stdout, master) // ends with EIO
	if e.Stdin != nil {
		go func() { _, _ = io.Copy(master, e.Stdin) }()
	}
	go eachSize(x.hungUp, e.Resize, func(size Size) { resize(master, size) })
	return nil
}

// eachSize passes on the sizes of a client's terminal, until there are no more or done is closed.
func eachSize(done <-chan struct{}, sizes <-chan Size, set func(Size)) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			set(size)
		case <-done:
			return
		}
	}
}

// copyOutput copies to a client, if there is one, until the command has closed its end or the client takes no more.
// The command finds out at its next write.
func (x *execution) copyOutput(to io.Writer, from *os.File) {
	if to == nil {
		to = io.Discard
	}
	x.output.Go(func() {
		_, _ = io.Copy(to, from)
		_ = from.Close()
	})
}

func closeAll(files []*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}

// drain waits for the rest of an ended command's output, and hangs up. Children of it may hold its end open.
func (x *execution) drain() {
	copied := make(chan struct{})
	go func() { defer close(copied); x.output.Wait() }()
	select {
	case <-copied:
	case <-time.After(drainTime):
	}
	x.hangUp()
}

// hangUp closes everything.
func (x *execution) hangUp() {
	close(x.hungUp)
	closeAll(x.theirs)
	closeAll(x.ours)
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
