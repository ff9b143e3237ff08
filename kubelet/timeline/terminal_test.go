package timeline

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv names the file where the process that TestTerminalInBackground starts writes its child's signals.
const childEnv = "TIMELINE_TEST_CHILD"

// TestTerminalInBackground: a kubelet that reads from its terminal is not stopped while it is in the background, and what it
// starts does not ignore the signal that would have stopped it.
func TestTerminalInBackground(t *testing.T) {
	if file := os.Getenv(childEnv); file != "" {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			new(StepMode).Terminal(os.Stdin, os.Stderr) // ends with an error: this process is in the background
		}()
		<-ended
		signals, err := exec.CommandContext(t.Context(), "cat", "/proc/self/status").Output()
		if err == nil {
			err = os.WriteFile(file, signals, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	file := filepath.Join(t.TempDir(), "signals")
	shell := exec.CommandContext(t.Context(), "sh", "-mc", `"$0" -test.run='^TestTerminalInBackground$' & wait $!`, os.Args[0])
	shell.Env = append(os.Environ(), childEnv+"="+file)
	shell.Stdin = newTerminal(t)
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- shell.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it was stopped")
	}
	status, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"SigIgn", "SigBlk"} {
		mask, err := strconv.ParseUint(string(regexp.MustCompile(kind + `:\s*(\w+)`).FindSubmatch(status)[1]), 16, 64)
		if err != nil || mask&(1<<(unix.SIGTTIN-1)) != 0 {
			t.Errorf("a child of it has %s %x, %v", kind, mask, err)
		}
	}
}

// newTerminal makes a terminal and returns the end that programs get.
func newTerminal(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) }) // hangs up, which ends what still runs there
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	end, err := os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = end.Close() })
	return end
}
