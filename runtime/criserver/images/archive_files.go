package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/trees"
)

// maxArchiveFiles bounds an archive's tar.
const maxArchiveFiles = 100_000

// archive is the files of an archive, below a directory that no name and no link in it leads out of.
//
// go-containerregistry's layout follows links out of the directory, and its tarball package reads the whole tar once for
// each file. Neither has bounds.
type archive struct {
	*os.Root
	unpacked string // the directory of a tar's files; "" for an archive that is a directory itself
}

// openArchive opens a directory, or a tar, which is unpacked into the store first as a layer is: with its bounds.
func (s *Store) openArchive(ctx context.Context, name string) (_ *archive, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a, dir := &archive{}, name
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.IsDir() {
		if dir, err = os.MkdirTemp(s.path("tmp"), "archive-"); err != nil {
			return nil, err
		}
		a.unpacked = dir
		if err := s.unpackArchive(ctx, f, dir); err != nil {
			return nil, errors.Join(fmt.Errorf("unpack: %w", err), trees.Remove(dir))
		}
	}
	a.Root, err = os.OpenRoot(dir)
	return a, err
}

func (s *Store) unpackArchive(ctx context.Context, content io.Reader, dir string) error {
	stream, err := decompress(&contextReader{ctx, content})
	if err != nil {
		return err
	}
	defer stream.Close()
	limits := s.options.Limits
	limits.LayerEntries = maxArchiveFiles
	u, err := newUnpacker(dir, limits, s.newBudget())
	if err != nil {
		return err
	}
	defer u.close()
	return u.unpack(bounded.NewReader(stream, limits.UnpackedBytes))
}

func (a *archive) open(name string) (io.ReadCloser, error) {
	info, err := a.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a fifo waits for a writer
		return nil, fmt.Errorf("%s is not a file", name)
	}
	return a.Open(name)
}

// Close also removes what was unpacked.
func (a *archive) Close() error {
	err := a.Root.Close()
	if a.unpacked != "" {
		err = errors.Join(err, trees.Remove(a.unpacked))
	}
	return err
}
