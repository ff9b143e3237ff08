// Package trees removes directory trees that others have filled: of any depth, with a bounded number of open files, and
// never through a mount.
package trees

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"minikubelet/runtime/mounts"
)

// ErrMounted is returned when something is mounted in a tree that is to be removed. What it shows is left alone.
var ErrMounted = errors.New("something is mounted there")

const (
	// maxDepth is how many directories are open at the same time. What lies deeper is moved to the top of the tree first.
	maxDepth = 32
	// batch is how many names of a directory are read at a time.
	batch = 1024
	// unmountTries is how many mounts over one another are taken away, and how often the list of mounts is read again.
	unmountTries = 8
)

// Remove removes a file or a directory with all that is in it. A path that is not there is no error. After an error as
// much as possible is gone.
func Remove(path string) error {
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	defer unix.Close(parent)
	if err := RemoveAt(parent, filepath.Base(path)); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// RemoveAt is Remove of one name in an open directory.
func RemoveAt(parent int, name string) error {
	r := remover{prefix: "deep-" + rand.Text() + "-", top: -1}
	return r.entry(parent, name, 0)
}

// RemoveMounted unmounts everything at or below a path and then removes it. While anything stays mounted, nothing that
// it shows is removed.
func RemoveMounted(path string) error {
	err := Remove(path)
	if !errors.Is(err, ErrMounted) {
		return err
	}
	// Most mounts are directly in the directory. They are found without the list of all mounts, which is long.
	entries, _ := os.ReadDir(path)
	for _, entry := range entries {
		_ = Detach(filepath.Join(path, entry.Name())) // the removal fails if it stays mounted
	}
	if err := Remove(path); !errors.Is(err, ErrMounted) {
		return err
	}
	if err := unmountAll(path); err != nil {
		return err
	}
	return Remove(path)
}

// Detach unmounts everything that is mounted at a path, at once and also while processes use it. It is no error if
// nothing is mounted there.
func Detach(path string) error {
	for range unmountTries {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return nil
		case err != nil:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	return fmt.Errorf("unmount %s: %w", path, ErrMounted)
}

// unmountAll detaches everything that is mounted at or below a directory, and returns nil only when nothing is any more.
func unmountAll(dir string) error {
	var failed error
	for range unmountTries {
		found, err := mounts.Below(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if len(found) == 0 {
			return nil
		}
		failed = nil
		for _, mount := range slices.Backward(found) { // the newest first: it may be on an older one
			failed = errors.Join(failed, Detach(mount.Mountpoint))
		}
	}
	return errors.Join(failed, fmt.Errorf("unmount %s: %w", dir, ErrMounted))
}

// remover removes one tree.
type remover struct {
	top    int    // the tree's uppermost directory, once it is open
	prefix string // of the names that deep directories get in it; random, so that no tree has such a name
	moved  int
}

// entry removes one name in a directory that is depth levels below the top.
func (r *remover) entry(parent int, name string, depth int) error {
	err := unix.Unlinkat(parent, name, 0)
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%q: %w", name, ErrMounted)
	case !errors.Is(err, unix.EISDIR):
		return fmt.Errorf("unlink %q: %w", name, err)
	}
	// Tried before the directory is read: if something is mounted on it, only what is mounted would be seen.
	err = unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%q: %w", name, ErrMounted)
	case !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST):
		return fmt.Errorf("remove directory %q: %w", name, err)
	}
	if depth > maxDepth {
		return r.moveUp(parent, name)
	}
	if err := r.directory(parent, name, depth); err != nil {
		return err
	}
	if err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove directory %q: %w", name, err)
	}
	return nil
}

// moveUp makes a deep directory one of the top's, which is emptied last.
func (r *remover) moveUp(parent int, name string) error {
	r.moved++
	err := unix.Renameat(parent, name, r.top, r.prefix+strconv.Itoa(r.moved))
	if errors.Is(err, unix.EBUSY) {
		err = ErrMounted
	}
	if err != nil {
		return fmt.Errorf("move directory %q up: %w", name, err)
	}
	return nil
}

// directory empties one directory, without crossing into a mount or following a link.
func (r *remover) directory(parent int, name string, depth int) error {
	fd, err := unix.Openat2(parent, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if errors.Is(err, unix.EXDEV) {
		err = ErrMounted
	}
	if err != nil {
		return fmt.Errorf("open %q: %w", name, err)
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	if r.top < 0 {
		r.top = fd
	}
	for {
		names, err := dir.Readdirnames(batch)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("list %q: %w", name, err)
		}
		var failed []error
		for _, inner := range names {
			if err := r.entry(fd, inner, depth+1); err != nil {
				failed = append(failed, err)
			}
		}
		if len(failed) == len(names) { // nothing left, or nothing that can be removed
			return errors.Join(failed[:min(len(failed), 3)]...)
		}
		// Names may have been skipped because others went, and deep directories may have come.
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("list %q: %w", name, err)
		}
	}
}
