package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"

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
	limits   Limits
}

// openArchive opens a directory, or a tar, which is unpacked into the store first as a layer is: with its bounds.
func (s *Store) openArchive(ctx context.Context, name string) (*archive, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	a, dir := &archive{limits: s.options.Limits}, name
	if !info.IsDir() {
		if dir, err = os.MkdirTemp(s.path("tmp"), "archive-"); err != nil {
			return nil, err
		}
		a.unpacked = dir
		limits := s.options.Limits
		limits.LayerEntries = maxArchiveFiles
		if _, _, err := unpackTar(ctx, f, dir, limits, s.newBudget(), io.Discard); err != nil {
			return nil, errors.Join(fmt.Errorf("unpack: %w", err), trees.Remove(dir))
		}
	}
	a.Root, err = os.OpenRoot(dir)
	return a, err
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

func (a *archive) read(name string, limit int64) ([]byte, error) {
	f, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := bounded.ReadAll(f, limit)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return content, nil
}

func (a *archive) readJSON(name string, into any) error {
	content, err := a.read(name, a.limits.ManifestBytes)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// blob is the file of a layer, a manifest or a config in the layout of the OCI.
func blob(digest v1.Hash) string { return path.Join("blobs", digest.Algorithm, digest.Hex) }

// manifest implements source.
func (a *archive) manifest(_ context.Context, digest v1.Hash) ([]byte, error) {
	return a.read(blob(digest), a.limits.ManifestBytes)
}

// config implements source.
func (a *archive) config(_ context.Context, want v1.Descriptor) ([]byte, error) {
	return a.read(blob(want.Digest), a.limits.ConfigBytes)
}

// Close also removes what was unpacked.
func (a *archive) Close() error {
	err := a.Root.Close()
	if a.unpacked != "" {
		err = errors.Join(err, trees.Remove(a.unpacked))
	}
	return err
}
