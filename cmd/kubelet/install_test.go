package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestInstall: make install makes the tree of a package, whatever the umask, keeps a configuration that is there, and make uninstall
// leaves nothing else.
func TestInstall(t *testing.T) {
	repository, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	work, dest := t.TempDir(), t.TempDir()
	for _, name := range []string{"bin/kubelet", "bin/crid"} {
		if err := os.MkdirAll(filepath.Join(work, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(work, name), []byte("program"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(repository, "examples"), filepath.Join(work, "examples")); err != nil {
		t.Fatal(err)
	}
	makes := func(target string) {
		t.Helper()
		line := fmt.Sprintf("umask 077 && exec make -C %s -f %s/Makefile %s PREFIX=/usr DESTDIR=%s", work, repository, target, dest)
		if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil || strings.Contains(string(out), "systemctl") {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
	}
	has := func(want ...string) {
		t.Helper()
		var files []string
		err := filepath.WalkDir(dest, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || path == dest {
				return err
			}
			info, err := entry.Info()
			files = append(files, fmt.Sprintf("%v %s", info.Mode(), strings.TrimPrefix(path, dest)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		files = slices.DeleteFunc(files, func(file string) bool {
			return strings.HasPrefix(file, "drwxr-xr-x") && !strings.HasSuffix(file, "manifests")
		})
		if !slices.Equal(files, want) {
			t.Errorf("the tree is\n%s\nwant\n%s", strings.Join(files, "\n"), strings.Join(want, "\n"))
		}
	}
	makes("install")
	has("-rw-r--r-- /etc/minikubelet/kubelet.yaml", "drwxr-xr-x /etc/minikubelet/manifests", "-rwxr-xr-x /usr/bin/crid", "-rwxr-xr-x /usr/bin/kubelet",
		"-rw-r--r-- /usr/lib/systemd/system/minikubelet.service")
	unit, err := os.ReadFile(filepath.Join(dest, "usr/lib/systemd/system/minikubelet.service"))
	if err != nil || !strings.Contains(string(unit), "\nExecStart=/usr/bin/kubelet ") {
		t.Errorf("the unit is %v, %s", err, unit)
	}
	// An older make install put the unit where systemd looks first, as it then was.
	old := filepath.Join(dest, "etc/systemd/system/minikubelet.service")
	if err := os.MkdirAll(filepath.Dir(old), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		text, target string
		stays        bool
	}{
		{strings.Replace(string(unit), "# The configuration's files are read again.\nExecReload=/bin/kill -HUP $MAINPID\n", "", 1), "install", false},
		{string(unit) + "# mine\n", "install", true},
		{string(unit) + "# mine\n", "uninstall", true},
		{string(unit), "uninstall", false},
	} {
		if err := os.WriteFile(old, []byte(tc.text), 0o644); err != nil {
			t.Fatal(err)
		}
		makes(tc.target)
		if _, err := os.Stat(old); (err == nil) != tc.stays {
			t.Errorf("after make %s an older unit is %v:\n%s", tc.target, err, tc.text)
		}
	}
	makes("install")
	config := filepath.Join(dest, "etc/minikubelet/kubelet.yaml")
	if err := os.WriteFile(config, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	makes("install")
	makes("uninstall")
	has("-rw-r--r-- /etc/minikubelet/kubelet.yaml")
	if data, err := os.ReadFile(config); err != nil || string(data) != "mine" {
		t.Errorf("the configuration is %q, %v", data, err)
	}
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	makes("install")
	makes("uninstall")
	has()
}
