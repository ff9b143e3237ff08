package stack

import (
	"bufio"
	"os"
	"os/exec"
	"testing"
	"time"
)

// clockEnv has this program write the time again and again.
const clockEnv = "MINIKUBELET_TEST_CLOCK"

func init() {
	if os.Getenv(clockEnv) == "" {
		return
	}
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stdout.WriteString(time.Now().Format(time.RFC3339) + "\n"); err != nil {
			os.Exit(0)
		}
	}
	os.Exit(1)
}

// TestSetClock: a program takes the time that it is told, and no other program does; its monotonic time goes on.
func TestSetClock(t *testing.T) {
	if !CanSetClock || os.Geteuid() != 0 {
		t.Skip("the clock of one process cannot be set here")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), clockEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	lines := bufio.NewScanner(out)
	for _, off := range []time.Duration{0, time.Hour, -time.Hour, 0} {
		if err := SetClock(cmd.Process.Pid, off); err != nil {
			t.Fatal(err)
		}
		for {
			if !lines.Scan() {
				t.Fatalf("the program has ended: %v", lines.Err())
			}
			at, err := time.Parse(time.RFC3339, lines.Text())
			if err != nil {
				t.Fatal(err)
			}
			if (time.Until(at) - off).Abs() < time.Minute {
				break
			}
		}
	}
}
