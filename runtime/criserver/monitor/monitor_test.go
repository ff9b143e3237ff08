package monitor

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

func TestCheckVersion(t *testing.T) {
	for out, want := range map[string]struct {
		version string
		safe    bool
	}{
		"runc version 1.5.2\nspec: 1.3.0\n":   {"runc 1.5.2", true},
		"runc version 1.1.15\n":               {"runc 1.1.15", false},
		"runc version 1.2.9\n":                {"runc 1.2.9", false},
		"runc version 1.3.5\n":                {"runc 1.3.5", false},
		"runc version 1.3.6\n":                {"runc 1.3.6", true},
		"runc version 1.3.6+dev\n":            {"runc 1.3.6", true},
		"runc version 1.3.6-0ubuntu1~22.04\n": {"runc 1.3.6", true},
		"runc version 1.4.2\n":                {"runc 1.4.2", false},
		"runc version 1.4.3\n":                {"runc 1.4.3", true},
		"runc version 1.4.3-rc.1\n":           {"runc 1.4.3-rc.1", false},
		"runc version 1.4.4-rc.1+dev\n":       {"runc 1.4.4-rc.1", true},
		"runc version 1.5.0-rc.3\n":           {"runc 1.5.0-rc.3", false},
		"runc version 1.5.0~rc3+ds1\n":        {"runc 1.5.0~rc3", false},
		"runc version 1.5.0\n":                {"runc 1.5.0", true},
		"runc version 1.6.0-dev\n":            {"runc 1.6.0-dev", true},
		"runc version 2.0.0\n":                {"runc 2.0.0", true},
		"crun version 1.27.1\ncommit: x\n":    {"crun 1.27.1", false},
		"crun version 1.28\n":                 {"crun 1.28.0", true},
		"crun version 1.28.rc1\n":             {"crun 1.28.0.rc1", false},
		"youki version 0.5.0\n":               {"youki 0.5.0", true},
		"something else\nwith another line\n": {"something else", true},
		"":                                    {"", true},
	} {
		version, err := checkVersion(out)
		if version != want.version || (err == nil) != want.safe {
			t.Errorf("%q: %q, %v", out, version, err)
		}
	}
}

// TestFeatures: what a runtime does not say of itself it cannot do, as one that prints text for humans.
func TestFeatures(t *testing.T) {
	program := filepath.Join(t.TempDir(), "runc")
	type can struct{ answer, readOnly, userNamespaces bool }
	for answer, want := range map[string]can{
		`{"mountOptions":["ro","rro"],"linux":{"namespaces":["user"],"mountExtensions":{"idmap":{"enabled":true}}}}`: {true, true, true},
		`{"mountOptions":["rro"]}`: {true, true, false},
		`{"linux":{"namespaces":["user"],"mountExtensions":{"idmap":{"enabled":false}}}}`: {true, false, false},
		`{"linux":{"namespaces":["pid"],"mountExtensions":{"idmap":{"enabled":true}}}}`:   {true, false, false},
		`{"linux":{"namespaces":["user"]}}`:                                               {true, false, false},
		`{}`:                                                                              {true, false, false},
		"Incorrect Usage":                                                                 {},
	} {
		if err := os.WriteFile(program, []byte("#!/bin/sh\necho '"+answer+"'\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		r := &Runtime{Path: program}
		err := r.ReadFeatures(t.Context())
		if got := (can{err == nil, r.RecursiveReadOnly, r.NoUserNamespaces == nil}); got != want {
			t.Errorf("%s: %+v, %v", answer, got, err)
		}
	}
}

func TestRuntimeError(t *testing.T) {
	for text, want := range map[string]string{
		"":          "no reason given",
		"  plain\n": "plain",
		`{"level":"warning","msg":"w"}` + "\n" + `{"level":"error","msg":"it broke"}` + "\n": "it broke",
		`{"level":"error"`: `{"level":"error"`,
	} {
		if got := runtimeError(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func FuzzRuntimeError(f *testing.F) {
	f.Add(`{"level":"error","msg":"x"}`)
	f.Fuzz(func(t *testing.T, text string) {
		if got := runtimeError(text); len(got) > len(text)*4+20 {
			t.Errorf("%q became %q", text, got)
		}
	})
}

func TestReadExit(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadExit(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(exitFile, "what")
	if _, err := ReadExit(dir); err == nil {
		t.Error("a word for an exit code")
	}
	write(exitFile, "137\n")
	write(oomFile, "")
	if exit, err := ReadExit(dir); err != nil || exit.Code != 137 || !exit.OOM || time.Since(exit.FinishedAt) > time.Hour {
		t.Errorf("%+v, %v", exit, err)
	}
}

// TestHandle: the end of somebody else's process is told, and nobody else gets its signals.
func TestHandle(t *testing.T) {
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h, err := Open(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := Open(cmd.Process.Pid, h.Start+1); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a process of another start time: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	other, err := Open(cmd.Process.Pid, h.Start)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waited for %v", err)
	}
	if err := h.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := h.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if err := h.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal to nobody: %v", err)
	}
}

// TestKillTree: children, their children, and those that moved to a session of their own.
func TestKillTree(t *testing.T) {
	var out bytes.Buffer
	cmd := exec.Command("sh", "-c", "sleep 100 & setsid sh -c 'sleep 100 & wait' & wait")
	cmd.Stdout = &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); len(family(cmd.Process.Pid, nil)) < 4; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("family %v", family(cmd.Process.Pid, nil))
		}
	}
	members := family(cmd.Process.Pid, nil)
	killTree(cmd.Process.Pid)
	_ = cmd.Wait()
	for _, pid := range members {
		if stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err == nil && !bytes.Contains(stat, []byte(") Z ")) && !bytes.Contains(stat, []byte(") X ")) {
			t.Errorf("process %d is left: %s", pid, stat)
		}
	}
}
