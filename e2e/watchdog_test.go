package e2e

import (
	"net"
	"path/filepath"
	"testing"

	"minikubelet/e2e/stack"
)

// TestSupervisor: who started the kubelet, as systemd does, hears of its start, of the turns of its loop and of its end.
func TestSupervisor(t *testing.T) {
	ctx := onStack(t)
	if kubelet != nil {
		stopKubelet(t)
	}
	path := filepath.Join(t.TempDir(), "notify")
	supervisor, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer supervisor.Close()
	told := func() string {
		t.Helper()
		if deadline, ok := ctx.Deadline(); ok {
			if err := supervisor.SetReadDeadline(deadline); err != nil {
				t.Fatal(err)
			}
		}
		buffer := make([]byte, 100)
		n, err := supervisor.Read(buffer)
		if err != nil {
			t.Fatalf("no word from the kubelet: %v", err)
		}
		return string(buffer[:n])
	}
	startKubelet(ctx, t, stack.KubeletOptions{Standalone: true, Wrap: func(args []string) []string {
		return append([]string{"env", "NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=1500000"}, args...)
	}})
	for i, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := told(); got != want {
			t.Errorf("word %d is %q, want %q", i, got, want)
		}
	}
	stopKubelet(t)
	for {
		if got := told(); got == "STOPPING=1" {
			return
		} else if got != "WATCHDOG=1" {
			t.Fatalf("at the end: %q", got)
		}
	}
}
