package stats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	diskAge        = time.Minute     // how old a directory's usage may be, as upstream's volumeStatsAggPeriod
	maxDiskEntries = 200_000         // files looked at in one directory
	maxDiskDepth   = 100             // directories inside one another
	maxDiskTime    = 2 * time.Second // spent on one directory
)

// used is what the files of a directory take.
type used struct{ bytes, inodes uint64 }

var errTooMuch = errors.New("it has too many files to count")

// disk remembers what directories use: counting is the one thing here that costs.
type disk struct {
	mu    sync.Mutex
	known map[string]measured
}

type measured struct {
	used
	at  time.Time
	err error
}

func newDisk() *disk { return &disk{known: map[string]measured{}} }

// usage returns what is below the directory, at most diskAge old. A directory that is not there uses nothing.
//
// Upstream: pkg/volume/metrics_du.go
func (d *disk) usage(ctx context.Context, dir string) (used, error) {
	d.mu.Lock()
	m, ok := d.known[dir]
	d.mu.Unlock()
	if !ok || time.Since(m.at) > diskAge {
		if ctx.Err() != nil {
			return used{}, ctx.Err()
		}
		m = measured{at: time.Now()}
		m.used, m.err = measure(ctx, dir)
		if ctx.Err() == nil {
			d.mu.Lock()
			d.known[dir] = m
			d.mu.Unlock()
		}
	}
	return m.used, m.err
}

// forget drops what nobody has asked for of late.
func (d *disk) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for dir, m := range d.known {
		if time.Since(m.at) > 2*diskAge {
			delete(d.known, dir)
		}
	}
}

// counter counts one directory tree. Containers write there while it is read, so every step goes by file descriptor
// and follows no link; other filesystems mounted in it are not counted.
type counter struct {
	device  uint64
	seen    map[uint64]bool // files with several names, by inode
	entries int
	sum     used
	until   time.Time
}

func measure(ctx context.Context, dir string) (used, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return used{}, nil
	}
	if err != nil {
		return used{}, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		unix.Close(fd)
		return used{}, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	c := &counter{device: s.Dev, seen: map[uint64]bool{}, until: time.Now().Add(maxDiskTime)}
	c.add(&s)
	if err := c.walk(ctx, os.NewFile(uintptr(fd), dir), 1); err != nil {
		return used{}, fmt.Errorf("count what %s uses: %w", dir, err)
	}
	return c.sum, nil
}

func (c *counter) add(s *unix.Stat_t) {
	c.sum.bytes += uint64(s.Blocks) * 512
	c.sum.inodes++
}

// walk counts what is in a directory and closes it.
func (c *counter) walk(ctx context.Context, dir *os.File, depth int) error {
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if err := c.entry(ctx, dir, name, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *counter) entry(ctx context.Context, dir *os.File, name string, depth int) error {
	c.entries++
	if c.entries > maxDiskEntries || depth > maxDiskDepth || time.Now().After(c.until) {
		return errTooMuch
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var s unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && s.Dev == c.device { // else it is gone meanwhile, or another filesystem's
		return c.count(ctx, dir, name, &s, depth)
	}
	return nil
}

// count counts one file, and what is in it if it is a directory.
func (c *counter) count(ctx context.Context, dir *os.File, name string, s *unix.Stat_t, depth int) error {
	isDir := s.Mode&unix.S_IFMT == unix.S_IFDIR
	if s.Nlink > 1 && !isDir {
		if c.seen[s.Ino] {
			return nil
		}
		c.seen[s.Ino] = true
	}
	c.add(s)
	if !isDir {
		return nil
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil { // else it is gone or replaced meanwhile
		return c.walk(ctx, os.NewFile(uintptr(fd), name), depth+1)
	}
	return nil
}
