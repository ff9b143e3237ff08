package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// dir is an open directory of logs. Its methods take names of files in it, never paths, and follow no links, which os.Root would
// follow within the directory.
type dir struct{ file *os.File }

// openDir opens the directory at a path below root, component by component.
func openDir(root, path string) (*dir, error) {
	const flags = unix.O_DIRECTORY | unix.O_RDONLY | unix.O_CLOEXEC
	fd, err := unix.Open(root, flags, 0) // root itself is the administrator's and may be a link
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	for part := range strings.SplitSeq(filepath.ToSlash(path), "/") {
		next, err := unix.Openat(fd, part, flags|unix.O_NOFOLLOW, 0)
		_ = unix.Close(fd)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: filepath.Join(root, path), Err: err}
		}
		fd = next
	}
	return &dir{os.NewFile(uintptr(fd), filepath.Join(root, path))}, nil
}

func (d *dir) close() { _ = d.file.Close() }

func (d *dir) fd() int { return int(d.file.Fd()) }

func (d *dir) error(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: filepath.Join(d.file.Name(), name), Err: err}
}

var errNotRegular = errors.New("not a regular file")

// size is that of a regular file; anything else is no log.
func (d *dir) size(name string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, d.error("stat", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, d.error("stat", name, errNotRegular)
	}
	return st.Size, nil
}

// maxEntries bounds the names read of one directory: a container's logs are a handful.
const maxEntries = 10000

func (d *dir) names() ([]string, error) {
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return nil, d.error("rewind", "", err)
	}
	names, err := d.file.Readdirnames(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("list logs: %w", err)
	}
	return names, nil
}

// remove removes a file that may be gone already.
func (d *dir) remove(name string) error {
	if err := unix.Unlinkat(d.fd(), name, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d.error("remove", name, err)
	}
	return nil
}

// rename overwrites nothing: of two rotations in one second the second fails.
func (d *dir) rename(from, to string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd(), to, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		return d.error("rename", to, fs.ErrExist)
	}
	return d.error("rename", from, unix.Renameat(d.fd(), from, d.fd(), to))
}

// open opens a regular file. O_NONBLOCK keeps a FIFO in its place from holding the caller.
func (d *dir) open(name string, flags int, mode uint32) (*os.File, error) {
	fd, err := unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, mode)
	if err != nil {
		return nil, d.error("open", name, err)
	}
	f := os.NewFile(uintptr(fd), filepath.Join(d.file.Name(), name))
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = d.error("open", name, errNotRegular)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// compress replaces a file by a compressed one with .gz at its end. The file stays until that is complete.
func (d *dir) compress(ctx context.Context, name string) error {
	if err := d.compressed(ctx, name); err != nil {
		return fmt.Errorf("compress %s: %w", name, err)
	}
	return d.remove(name)
}

func (d *dir) compressed(ctx context.Context, name string) error {
	from, err := d.open(name, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	tmp := name + tmpSuffix
	to, err := d.open(tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, uint32(info.Mode().Perm()))
	if err != nil {
		return err
	}
	err = errors.Join(gzipTo(ctx, to, from), to.Close())
	if err == nil {
		err = d.rename(tmp, name+compressSuffix)
	}
	if err != nil {
		return errors.Join(err, d.remove(tmp))
	}
	return nil
}

// gzipTo stops between two blocks when ctx ends, so that the kubelet need not wait for a large log.
func gzipTo(ctx context.Context, to io.Writer, from io.Reader) error {
	w := gzip.NewWriter(to)
	block := make([]byte, 64<<10)
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := from.Read(block)
		if _, err := w.Write(block[:n]); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if errors.Is(err, io.EOF) {
			return w.Close()
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
	}
}
