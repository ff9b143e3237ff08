// Package fulldisk tests that what is written to a disk without room is written whole or not at all.
package fulldisk

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	pages  = 64
	inodes = 64
)

// Each calls write again and again on file systems of its own, which prepare has filled with what is there before: without any
// room, with room for one page, for two, and so on until it succeeds; then the same with files instead of pages. What failed for
// want of room says so, leaves the files as they were and none besides, and succeeds once there is room. Names that end in spare
// are left out.
func Each(t *testing.T, spare string, prepare, write func(dir string) error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	for what, fill := range map[string]func(dir string, room int) error{"pages": fillPages, "files": fillInodes} {
		failures := 0
		for failed := true; failed; failures++ {
			if failures == pages {
				t.Fatalf("it fails with room for %d %s", pages, what)
			}
			var err error
			if failed, err = once(t, spare, prepare, write, func(dir string) error { return fill(dir, failures) }); err != nil {
				t.Errorf("with room for %d %s: %v", failures, what, err)
				return
			}
		}
		if failures == 1 {
			t.Errorf("it needs no %s", what)
		}
	}
}

// once calls write on a file system that fill has filled, and tells whether it failed.
func once(t *testing.T, spare string, prepare, write, fill func(dir string) error) (failed bool, err error) {
	mount := t.TempDir()
	if err := unix.Mount("small", mount, "tmpfs", 0, fmt.Sprintf("size=%d,nr_inodes=%d", pages*os.Getpagesize(), inodes)); err != nil {
		t.Fatal(err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(mount, unix.MNT_DETACH)) }()
	dir, filler := filepath.Join(mount, "dir"), filepath.Join(mount, "filler")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(filler, 0o700)); err != nil {
		return false, err
	}
	if err := prepare(dir); err != nil {
		return false, err
	}
	before, err := contents(dir, spare)
	if err != nil {
		return false, err
	}
	if err := fill(filler); err != nil {
		return false, err
	}
	err = write(dir)
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, syscall.ENOSPC) && !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		return true, fmt.Errorf("another error than of a full disk: %w", err)
	}
	after, err := contents(dir, spare)
	if err != nil {
		return true, err
	}
	if !maps.Equal(before, after) {
		return true, fmt.Errorf("the files were %q and are %q", before, after)
	}
	if err := os.RemoveAll(filler); err != nil {
		return true, err
	}
	if err := write(dir); err != nil {
		return true, fmt.Errorf("when there is room again: %w", err)
	}
	return true, nil
}

// contents are what the files below a directory have in them, and where links lead.
func contents(dir, spare string) (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || spare != "" && strings.HasSuffix(path, spare) {
			return err
		}
		if d.Type() == fs.ModeSymlink {
			all[path], err = os.Readlink(path)
			return err
		}
		data, err := os.ReadFile(path)
		all[path] = string(data)
		return err
	})
	return all, err
}

// fillPages leaves room for so many pages.
func fillPages(dir string, room int) error {
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		return err
	}
	defer f.Close()
	page, size := make([]byte, os.Getpagesize()), int64(0)
	for {
		n, err := f.Write(page)
		size += int64(n)
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			return err
		}
	}
	return f.Truncate(max(0, size-int64(room*len(page))))
}

// fillInodes leaves room for so many files.
func fillInodes(dir string, room int) error {
	var made []string
	for {
		path := filepath.Join(dir, fmt.Sprint(len(made)))
		err := os.WriteFile(path, nil, 0o600)
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			return err
		}
		made = append(made, path)
	}
	slices.Reverse(made)
	for _, path := range made[:min(room, len(made))] {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}
