package diskusage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// du is what the program says, without the entries it counts otherwise.
func du(t *testing.T, dir string) int64 {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("du", "-sx", "--block-size=1", dir)
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		t.Fatal("no du: ", err)
	}
	n, err := strconv.ParseInt(strings.Fields(out.String())[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDiskUsage(t *testing.T) {
	root, elsewhere := t.TempDir(), t.TempDir()
	write := func(path string, size int) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, make([]byte, size), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(elsewhere, "big"), 1<<20)
	write(filepath.Join(root, "a"), 100_000)
	write(filepath.Join(root, "d/e/b"), 10_000)
	write(filepath.Join(root, "d/c"), 1)
	write(filepath.Join(root, "z/y"), 0)
	if err := errors.Join(
		os.Link(filepath.Join(root, "a"), filepath.Join(root, "d/again")),
		os.Symlink(filepath.Join(elsewhere, "big"), filepath.Join(root, "link")),
		os.Symlink(elsewhere, filepath.Join(root, "dirlink")),
		unix.Mkfifo(filepath.Join(root, "fifo"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	got, err := diskUsage(t.Context(), root, nil)
	if want := du(t, root); err != nil || got.Bytes != want {
		t.Errorf("%d bytes, %v; du says %d", got.Bytes, err, want)
	}
	if got.Inodes != 11 { // root d e z, a b c y, link dirlink fifo
		t.Errorf("%d inodes", got.Inodes)
	}
	if got, err := diskUsage(t.Context(), filepath.Join(root, "none"), nil); err != nil || got != (Usage{}) {
		t.Errorf("of nothing: %v, %v", got, err)
	}
	if _, err := diskUsage(t.Context(), filepath.Join(root, "dirlink"), nil); err == nil {
		t.Error("a link is followed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := diskUsage(ctx, root, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestDiskUsageDeep: a tree deeper than there are file descriptors, and than a path is long, is counted to its end.
func TestDiskUsageDeep(t *testing.T) {
	root := t.TempDir()
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	const depth = 3000
	for range depth {
		if err := unix.Mkdirat(fd, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	got, err := diskUsage(t.Context(), root, nil)
	if err != nil || got.Inodes != depth+1 {
		t.Errorf("%d directories, %v", got.Inodes, err)
	}
}

// TestDiskUsageMoved: a tree whose directories are moved while they are read is read again.
func TestDiskUsageMoved(t *testing.T) {
	root := t.TempDir()
	from, to := filepath.Join(root, "a/b"), filepath.Join(root, "c/b")
	if err := errors.Join(os.MkdirAll(from, 0o755), os.Mkdir(filepath.Join(root, "c"), 0o755)); err != nil {
		t.Fatal(err)
	}
	reads := 0
	got, err := diskUsage(t.Context(), root, func(Usage) {
		reads++
		if isOpen(from) { // it is being read
			if err := os.Rename(from, to); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil || got.Inodes != 4 || reads <= 4 {
		t.Errorf("%d inodes in %d directories read, %v", got.Inodes, reads, err)
	}
}

// isOpen tells whether this process has a file open.
func isOpen(path string) bool {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	return slices.ContainsFunc(fds, func(fd string) bool {
		target, _ := os.Readlink(fd)
		return target == path
	})
}
