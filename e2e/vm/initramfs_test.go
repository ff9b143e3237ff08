package vm

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"minikubelet/e2e/stack"
)

// TestWriteInitramfs: another program reads what was written.
func TestWriteInitramfs(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("no busybox: make deps installs it")
	}
	dir := t.TempDir()
	archive, out := filepath.Join(dir, "archive"), filepath.Join(dir, "out")
	if err := WriteInitramfs(archive, []stack.File{
		{Path: "/init", Data: []byte("odd"), Mode: 0o755},
		{Path: "/a/b/empty", Mode: 0o600},
		{Path: "/a/b/link", Link: "empty"},
		{Path: "/a/sticky", Dir: true, Mode: 0o1777},
		{Path: "/a/b/last", Data: []byte("last"), Mode: 0o644},
	}); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), busybox, "cpio", "-i", "-d")
	cmd.Dir, cmd.Stdin = out, in
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, text)
	}
	for path, want := range map[string]string{"init": "odd", "a/b/empty": "", "a/b/last": "last"} {
		if got, err := os.ReadFile(filepath.Join(out, path)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	if to, err := os.Readlink(filepath.Join(out, "a/b/link")); err != nil || to != "empty" {
		t.Errorf("the link leads to %q: %v", to, err)
	}
	for path, want := range map[string]fs.FileMode{"init": 0o755, "a/b/empty": 0o600, "a/sticky": 0o777 | fs.ModeDir | fs.ModeSticky} {
		if info, err := os.Stat(filepath.Join(out, path)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

// TestModules: what a module needs comes before it.
func TestModules(t *testing.T) {
	dir := os.Getenv(DirEnv)
	if dir == "" {
		t.Skipf("%s is not set; make test-v2 sets it", DirEnv)
	}
	paths, err := Modules(filepath.Join(dir, "modules"), "bridge", "veth")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, path := range paths {
		names = append(names, filepath.Base(path))
	}
	if llc, stp, bridge := slices.Index(names, "llc.ko"), slices.Index(names, "stp.ko"), slices.Index(names, "bridge.ko"); llc < 0 || stp < llc || bridge < stp {
		t.Errorf("the order is %v", names)
	}
	if _, err := Modules(filepath.Join(dir, "modules"), "no-such-module"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a module that is not there: %v", err)
	}
}
