package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestStandInForSystemd: a unit's process runs with the arguments that it was given, ends when it is killed or stopped, and
// is another one after a restart; what it writes is added to its log.
func TestStandInForSystemd(t *testing.T) {
	tools, log := filepath.Join(t.TempDir(), "tools"), filepath.Join(t.TempDir(), "log")
	if err := linkTools(tools); err != nil {
		t.Fatal(err)
	}
	call := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), filepath.Join(tools, name), args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v: %s", name, args, err, out)
		}
		return string(out)
	}
	running := func() bool {
		t.Helper()
		return strings.Contains(call("systemctl", "list-units", "*one*", "--state=running"), "one-1.service loaded active running")
	}
	call("systemd-run", "-p", "Delegate=true", "-p", "StandardError=append:"+log, "--unit=one-1.service", "--slice=runtime.slice", "--remain-after-exit",
		"sh", "-c", "echo started with $$1 and 100%%; trap 'echo ended; exit' TERM; while :; do sleep 0.05; done", "sh", "two words")
	started := func(times int) {
		t.Helper()
		if !running() {
			t.Fatal("the unit does not run")
		}
		for data := []byte(nil); strings.Count(string(data), "started") < times; data, _ = os.ReadFile(log) {
		}
	}
	started(1)
	call("systemctl", "reset-failed", "one-1")
	call("systemctl", "restart", "one-1")
	started(2)
	call("systemctl", "kill", "one-1")
	for running() {
	}
	if got := call("systemctl", "list-units", "*one*"); !strings.Contains(got, "exited") {
		t.Errorf("units after a kill: %q", got)
	}
	call("systemctl", "start", "one-1")
	started(3)
	call("systemctl", "stop", "one-1.service")
	if got := call("systemctl", "list-units", "*one*"); got != "" {
		t.Errorf("units after a stop: %q", got)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat("started with two words and 100%\nended\n", 3); string(data) != want {
		t.Errorf("log:\n%swant:\n%s", data, want)
	}
	if out, err := exec.CommandContext(t.Context(), filepath.Join(tools, "systemctl"), "mask", "one-1").CombinedOutput(); err == nil {
		t.Errorf("what is not stood in for succeeds: %s", out)
	}
}
