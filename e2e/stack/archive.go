package stack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// Publish makes an image available to the stack's runtime: in the registry or, before the kubelet starts, as an OCI
// archive.
func (s *Stack) Publish(ctx context.Context, reference string, image v1.Image) error {
	if s.Registry != nil {
		return s.Registry.Push(ctx, reference, image)
	}
	file := filepath.Join(s.archiveDir(), strings.NewReplacer("/", "-", ":", "-").Replace(reference)+".tar")
	if err := s.writeArchive(file, reference, image); err != nil {
		return fmt.Errorf("write image %s to %s: %w", reference, file, err)
	}
	return nil
}

// archiveDir is where the embedded runtime looks for images.
func (s *Stack) archiveDir() string { return filepath.Join(s.Dir, "archives") }

// writeArchive writes an OCI layout with one image as a tar file.
func (s *Stack) writeArchive(file, reference string, image v1.Image) error {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Join(s.Dir, "images"), "layout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	index, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	annotation := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref.Name()})
	if err := index.AppendImage(image, annotation); err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	return errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), out.Close())
}
