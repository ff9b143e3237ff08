package mounts

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// TestShared checks that those who ask while the table is read share the next reading, and that none gets one that began before.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var began atomic.Int64
		hold := make(chan struct{})
		r := readings{get: func() ([]*mountinfo.Info, error) {
			n := began.Add(1)
			<-hold
			return []*mountinfo.Info{{ID: int(n)}}, nil
		}}
		var all sync.WaitGroup
		ask := func(n, want int) {
			for range n {
				all.Go(func() {
					if got, err := r.read(); err != nil || got[0].ID != want {
						t.Errorf("reading %d, %v, want %d", got[0].ID, err, want)
					}
				})
			}
			synctest.Wait()
		}
		ask(1, 1)
		ask(100, 2) // the first has begun
		hold <- struct{}{}
		synctest.Wait()
		ask(1, 3)
		close(hold)
		all.Wait()
		ask(1, 4)
		if r.last != nil || r.next != nil { // others of another test's time may not wait for it
			t.Error("a reading that is done is kept")
		}
	})
}

// TestBelow checks what is on a directory and below it, on real mounts.
func TestBelow(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	base := t.TempDir()
	dir := filepath.Join(base, "dir")
	for _, name := range []string{"dir/sub", "dir2", "other"} {
		if err := os.MkdirAll(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(base, filepath.Join(base, "other/link")); err != nil {
		t.Fatal(err)
	}
	want := func(dir string, names ...string) {
		t.Helper()
		got, err := Below(dir)
		if err != nil || len(got) != len(names) {
			t.Fatalf("below %s is %v, %v, want %v", dir, got, err, names)
		}
		for i, name := range names {
			if got[i].Mountpoint != filepath.Join(base, name) {
				t.Errorf("below %s is %s, want %s", dir, got[i].Mountpoint, name)
			}
		}
	}
	want(dir)
	for _, name := range []string{"dir", "dir/sub", "dir2"} {
		at := filepath.Join(base, name)
		if err := unix.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
		if err := os.MkdirAll(filepath.Join(base, "dir/sub"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	want(dir, "dir", "dir/sub")
	want(filepath.Join(base, "other/link/dir"), "dir", "dir/sub")
	if err := unix.Unmount(filepath.Join(dir, "sub"), 0); err != nil {
		t.Fatal(err)
	}
	want(dir, "dir")
	if _, err := Below(filepath.Join(base, "none/dir")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("below a directory that is not there: %v", err)
	}
}
