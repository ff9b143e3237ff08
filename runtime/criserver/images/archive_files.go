package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// archive is a set of files: a directory or a tar.
type archive interface {
	open(name string) (io.ReadCloser, error)
	Close() error
}

// openArchive opens a directory, or a tar, which is decompressed into the store first: its files are not read in order.
func (s *Store) openArchive(ctx context.Context, name string) (archive, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		root, err := os.OpenRoot(name)
		if err != nil {
			return nil, err
		}
		return directory{root}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if f, err = s.plain(ctx, f); err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	t := &tarFile{File: f, files: map[string]section{}, links: map[string]string{}}
	if err := t.index(ctx); err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

// plain replaces a compressed file by an unnamed one in the store.
func (s *Store) plain(ctx context.Context, f *os.File) (*os.File, error) {
	magic := make([]byte, 4)
	n, err := f.ReadAt(magic, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		f.Close()
		return nil, err
	}
	magic = magic[:n]
	if !strings.HasPrefix(string(magic), string(gzipMagic)) && !strings.HasPrefix(string(magic), string(zstdMagic)) {
		return f, nil
	}
	defer f.Close()
	r, err := decompress(&contextReader{ctx, f})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out, err := os.CreateTemp(s.path("tmp"), "archive-")
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(spender{out, s.newBudget()}, &limitedReader{inner: r, left: s.options.Limits.UnpackedBytes})
	if err = errors.Join(err, os.Remove(out.Name())); err == nil {
		_, err = out.Seek(0, io.SeekStart)
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

// directory is an archive that is a directory. Links in it lead nowhere else.
type directory struct{ root *os.Root }

func (d directory) Close() error { return d.root.Close() }

func (d directory) open(name string) (io.ReadCloser, error) {
	info, err := d.root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // a fifo would make us wait
		return nil, fmt.Errorf("%s is not a file", name)
	}
	return d.root.Open(name)
}

// maxArchiveFiles and maxLinks bound an archive's tar.
const (
	maxArchiveFiles = 100_000
	maxLinks        = 8
)

// tarFile is an archive that is a tar.
type tarFile struct {
	*os.File
	files map[string]section
	links map[string]string
}

type section struct{ offset, size int64 }

// index notes where each file is. The tar package skips contents by seeking, so that this is quick for any size.
func (t *tarFile) index(ctx context.Context) error {
	info, err := t.Stat()
	if err != nil {
		return err
	}
	reader := tar.NewReader(t.File)
	for n := 0; ; n++ {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && n >= maxArchiveFiles {
			err = fmt.Errorf("more than %d files", maxArchiveFiles)
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("read the tar: %w", err)
		}
		if err := t.add(header, info.Size()); err != nil {
			return fmt.Errorf("read the tar: %q: %w", shorten(header.Name), err)
		}
	}
}

func (t *tarFile) add(header *tar.Header, total int64) error {
	name, err := cleanName(header.Name)
	if err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeReg:
		for key := range header.PAXRecords {
			if strings.HasPrefix(key, "GNU.sparse.") {
				return errors.New("sparse files are not supported")
			}
		}
		offset, err := t.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if header.Size > total-offset {
			return io.ErrUnexpectedEOF
		}
		t.files[name] = section{offset, header.Size}
	case tar.TypeLink:
		t.links[name] = path.Clean(header.Linkname)
	case tar.TypeSymlink: // docker once wrote equal layers so
		t.links[name] = path.Join(path.Dir(name), header.Linkname)
	}
	return nil
}

func (t *tarFile) open(name string) (io.ReadCloser, error) {
	name = path.Clean(name)
	for range maxLinks {
		if at, ok := t.files[name]; ok {
			return io.NopCloser(io.NewSectionReader(t.File, at.offset, at.size)), nil
		}
		target, ok := t.links[name]
		if !ok {
			break
		}
		name = target
	}
	return nil, fmt.Errorf("open %q in the archive: %w", shorten(name), fs.ErrNotExist)
}
