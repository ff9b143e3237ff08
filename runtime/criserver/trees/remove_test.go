package trees_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/trees"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
}

// deepen makes a chain of directories, which no path could name, and a file in each.
func deepen(t *testing.T, dir string, depth int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := errors.Join(unix.Mkdirat(fd, "a-name-of-some-length", 0o700), unix.Mknodat(fd, "file", unix.S_IFREG|0o600, 0)); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "a-name-of-some-length", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	unix.Close(fd)
}

// openFiles bounds the descriptors of this process for a test.
func openFiles(t *testing.T, most uint64) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	})
}

// TestRemoveDeep: a tree deeper than there may be descriptors, and wider than one reading of a directory.
func TestRemoveDeep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	for _, name := range []string{"one", "two"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		deepen(t, filepath.Join(dir, name), 200)
	}
	for i := range 1500 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file-", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openFiles(t, 100)
	for range 2 { // one that is gone is no error
		if err := trees.Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := trees.Remove(filepath.Join(dir, "nothing", "here")); err != nil {
		t.Error(err)
	}
}

// TestRemoveLinks: links are removed, what they mean is not.
func TestRemoveLinks(t *testing.T) {
	outside, dir := t.TempDir(), filepath.Join(t.TempDir(), "tree")
	kept := filepath.Join(outside, "kept")
	for _, err := range []error{os.WriteFile(kept, nil, 0o600), os.Mkdir(dir, 0o700), os.Symlink(outside, filepath.Join(dir, "link")), os.Symlink(dir, dir+"-link")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(trees.Remove(dir+"-link"), trees.Remove(dir)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
}

// TestRemoveMounted: nothing is deleted through a mount, be it of the same file system, at the top or deep down, of a
// directory or a file; and RemoveMounted finds them all, also several over one another.
func TestRemoveMounted(t *testing.T) {
	needRoot(t)
	for name, at := range map[string]string{"at the top": "", "below": "a/b", "deep": "a/b/c/d/e/f/g/h", "a file": "file"} {
		t.Run(name, func(t *testing.T) {
			outside, dir := t.TempDir(), filepath.Join(t.TempDir(), "tree")
			kept, target, source := filepath.Join(outside, "kept"), filepath.Join(dir, at), outside
			if err := os.MkdirAll(target, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.WriteFile(kept, nil, 0o600), os.WriteFile(filepath.Join(dir, "other"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			if at == "file" {
				source = kept
				if err := errors.Join(os.Remove(target), os.WriteFile(target, nil, 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			t.Cleanup(func() { _ = trees.RemoveMounted(dir) })
			for range 2 {
				if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
					t.Fatal(err)
				}
			}
			if err := trees.Remove(dir); !errors.Is(err, trees.ErrMounted) {
				t.Errorf("removed: %v", err)
			}
			if _, err := os.Stat(kept); err != nil {
				t.Fatal(err)
			}
			if err := trees.RemoveMounted(dir); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(kept); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("left: %v", err)
			}
		})
	}
}

// TestRemoveStuck: what cannot be removed is named, and the rest is gone.
func TestRemoveStuck(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "tree")
	stuck := filepath.Join(dir, "a", "stuck")
	if err := os.MkdirAll(filepath.Join(dir, "a", "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stuck, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	immutable := func(on bool) error {
		f, err := os.Open(stuck)
		if err != nil {
			return err
		}
		defer f.Close()
		flags := 0
		if on {
			flags = unix.STATX_ATTR_IMMUTABLE
		}
		return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
	}
	if err := immutable(true); err != nil {
		t.Skipf("the file system has no immutable files: %v", err)
	}
	t.Cleanup(func() { _ = immutable(false) })
	if err := trees.Remove(dir); !errors.Is(err, unix.EPERM) {
		t.Errorf("removed: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a", "other")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := errors.Join(immutable(false), trees.Remove(dir)); err != nil {
		t.Error(err)
	}
}
