package diskusage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// blocked is a Disk with a walk in the slow lane that does not end, of the directory that it returns.
func blocked(t *testing.T) (d *Disk, dir string) {
	t.Helper()
	dir = t.TempDir()
	d = NewDisk(t.Context())
	d.slow <- struct{}{}
	d.known[dir] = &directory{done: make(chan struct{}), asked: time.Now()}
	return d, dir
}

func fill(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSlowDirectory: one that takes long does not hold the others up, and its last usage counts meanwhile, with its time.
func TestSlowDirectory(t *testing.T) {
	d, slow := blocked(t)
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := d.Usage(soon, slow, 0); !errors.Is(err, ErrNotMeasured) {
		t.Errorf("a directory that is still being measured: %v", err)
	}
	before := Usage{Bytes: 5, Inodes: 1, At: time.Now().Add(-time.Hour)}
	d.known[slow].usage = before
	if got, err := d.Usage(soon, slow, 0); err != nil || got != before {
		t.Errorf("meanwhile it is %+v, %v, want what it was before", got, err)
	}
	for range 2 * quickWalks {
		dir := t.TempDir()
		fill(t, dir, 3)
		if got, err := d.Usage(t.Context(), dir, 0); err != nil || got.Inodes != 4 || time.Since(got.At) > time.Minute {
			t.Errorf("another directory: %+v, %v", got, err)
		}
	}
}

// TestUsageAge: a directory is measured again when its usage is older than asked for, not at each question.
func TestUsageAge(t *testing.T) {
	d, dir := NewDisk(t.Context()), t.TempDir()
	inodes := func(maxAge time.Duration) int64 {
		t.Helper()
		got, err := d.Usage(t.Context(), dir, maxAge)
		if err != nil {
			t.Fatal(err)
		}
		return got.Inodes
	}
	fill(t, dir, 1)
	if got := inodes(time.Hour); got != 2 {
		t.Errorf("%d inodes", got)
	}
	fill(t, dir, 3)
	if got := inodes(time.Hour); got != 2 {
		t.Errorf("it was measured again: %d inodes", got)
	}
	d.known[dir].took = 0
	if got := inodes(0); got != 4 {
		t.Errorf("%d inodes of a usage that is too old", got)
	}
	d.known[dir].took = time.Hour
	fill(t, dir, 5)
	if got := inodes(0); got != 4 {
		t.Errorf("a directory that took an hour was measured again: %d inodes", got)
	}
	if got, err := d.Usage(t.Context(), filepath.Join(dir, "none"), 0); err != nil || got.Bytes != 0 || got.Inodes != 0 {
		t.Errorf("a directory that is not there: %+v, %v", got, err)
	}
	d.known[dir].asked = time.Now().Add(-2 * forgetTime)
	if _, err := d.Usage(t.Context(), t.TempDir(), 0); err != nil || d.known[dir] != nil {
		t.Errorf("what nobody asks for is remembered: %v", err)
	}
}

// TestLongPath: what is below a path longer than the kernel takes counts.
func TestLongPath(t *testing.T) {
	root := t.TempDir()
	fd, err := unix.Open(root, unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("d", 200)
	for range 50 {
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	defer unix.Close(fd)
	file, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(file)
	if _, err := unix.Write(file, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if got, err := NewDisk(t.Context()).Usage(t.Context(), root, 0); err != nil || got.Inodes != 52 || got.Bytes < 1<<20 {
		t.Errorf("%+v, %v", got, err)
	}
}
