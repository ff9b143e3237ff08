// Package diskusage measures what directories take on the disk, in the background.
package diskusage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// errMoved says that a directory was moved while it was measured.
var errMoved = errors.New("a directory was moved while it was measured")

// maxLinked bounds the files with several names that are remembered, so that each counts once.
const maxLinked = 1 << 20

// maxTries is how often a tree is read whose directories are moved about meanwhile. Then the most that was counted is
// taken, so that a container that moves directories all the time is measured nevertheless.
const maxTries = 3

// diskUsage adds up what the files below a directory take, on its filesystem. Their owner may change them
// meanwhile in any way: no link is followed. Only the directory being read is open, and each is opened from the one above
// it, so no tree is too deep and no path too long. progress is called now and then with what was counted so far.
//
// Upstream: pkg/volume/util/fs/fs.go DiskUsage.
func diskUsage(ctx context.Context, root string, progress func(Usage)) (most Usage, err error) {
	for range maxTries {
		w := &walk{linked: map[inode]bool{}, progress: progress}
		err := w.run(ctx, root)
		switch {
		case errors.Is(err, errMoved):
			most = Usage{Bytes: max(most.Bytes, w.sum.Bytes), Inodes: max(most.Inodes, w.sum.Inodes)}
			continue
		case errors.Is(err, fs.ErrNotExist):
			return Usage{}, nil // not made yet, or removed by now
		case err != nil:
			return w.sum, fmt.Errorf("measure %s: %w", root, err)
		}
		return w.sum, nil
	}
	return most, nil
}

// Now measures a directory at once, for one that is known to be small.
func Now(ctx context.Context, dir string) (Usage, error) {
	usage, err := diskUsage(ctx, dir, nil)
	usage.At = time.Now()
	return usage, err
}

// inode is a file or directory, whatever it is called.
type inode struct{ dev, ino uint64 }

// level is a directory on the way to the one being read, with those in it that are still to be read.
type level struct {
	inode
	pending []string
}

type walk struct {
	sum      Usage
	linked   map[inode]bool
	levels   []level
	dir      *os.File    // the one of the last level
	progress func(Usage) // may be nil
}

func (w *walk) run(ctx context.Context, root string) error {
	defer func() { _ = w.dir.Close() }()
	err := w.move(unix.AT_FDCWD, root)
	if err == nil {
		err = w.enter(ctx)
	}
	for err == nil && len(w.levels) > 0 {
		err = w.step(ctx)
	}
	return err
}

// move opens a directory in place of the one that is open.
func (w *walk) move(at int, name string) error {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_ = w.dir.Close()
	w.dir = os.NewFile(uintptr(fd), name)
	return nil
}

// step goes down into the next directory, or up if there is none.
func (w *walk) step(ctx context.Context) error {
	fd, top := int(w.dir.Fd()), &w.levels[len(w.levels)-1]
	if n := len(top.pending); n > 0 {
		name := top.pending[n-1]
		top.pending = top.pending[:n-1]
		if w.move(fd, name) != nil {
			return ctx.Err() // gone, or something else by now
		}
		return w.enter(ctx)
	}
	w.levels = w.levels[:len(w.levels)-1]
	if len(w.levels) == 0 {
		return nil
	}
	var st unix.Stat_t
	err := w.move(fd, "..")
	if err == nil {
		err = unix.Fstat(int(w.dir.Fd()), &st)
	}
	if err != nil || (inode{st.Dev, st.Ino}) != w.levels[len(w.levels)-1].inode {
		return errors.Join(errMoved, err)
	}
	return nil
}

// enter reads a directory: it counts the files and remembers the directories. A directory of another filesystem is left out.
func (w *walk) enter(ctx context.Context) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(w.dir.Fd()), &st); err != nil {
		return err
	}
	w.levels = append(w.levels, level{inode: inode{st.Dev, st.Ino}})
	if st.Dev != w.levels[0].dev {
		return nil
	}
	w.count(&st)
	pending := &w.levels[len(w.levels)-1].pending
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		names, err := w.dir.Readdirnames(1024)
		for _, name := range names {
			if unix.Fstatat(int(w.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue // gone by now
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				*pending = append(*pending, name)
			} else if st.Dev == w.levels[0].dev {
				w.count(&st)
			}
		}
		if w.progress != nil {
			w.progress(w.sum)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// count counts a file with several names once. Beyond a limit each name counts for its share.
func (w *walk) count(st *unix.Stat_t) {
	bytes := st.Blocks * 512
	if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		switch {
		case w.linked[id]:
			return
		case len(w.linked) < maxLinked:
			w.linked[id] = true
		default:
			bytes /= int64(st.Nlink)
		}
	}
	w.sum.Bytes += bytes
	w.sum.Inodes++
}
