package images

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/trees"
)

// Remove removes an image with all its names, and the layers that nothing else needs: other images, mounted snapshots
// (Unmount deletes theirs), pulls. What an earlier pull that failed left behind goes too. An image that is not there is
// no error.
func (s *Store) Remove(ctx context.Context, ref string) error {
	s.commits.Lock()
	s.mu.Lock()
	r := s.find(ref)
	var err error
	if r != nil {
		if err = os.Remove(s.path("images", recordName(r.ID))); err == nil || errors.Is(err, fs.ErrNotExist) {
			err = nil
			delete(s.images, r.ID)
		}
	}
	unused := make([]string, 0, len(s.layers))
	for chain := range s.layers {
		unused = append(unused, chain)
	}
	s.mu.Unlock()
	s.commits.Unlock()
	if err != nil {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	if r == nil {
		return nil
	}
	klog.FromContext(ctx).Info("Removed image", "imageID", r.ID, "tags", r.Tags)
	if err := errors.Join(s.sweepLayers(unused), s.sweepBlobs(0)); err != nil {
		return fmt.Errorf("delete the layers of image %s: %w", ref, err)
	}
	return nil
}

// sweepLayers deletes those of the layers that nothing needs.
func (s *Store) sweepLayers(chains []string) error {
	var trashed []string
	var failures []error
	s.mu.Lock()
	used := s.usedLayers()
	for _, chain := range chains {
		if used[chain] {
			continue
		}
		// Under the mutex, so that nobody claims the layer between the look and the rename.
		trash, err := s.trash(s.path("layers", chain))
		if err != nil {
			failures = append(failures, err)
			continue
		}
		delete(s.layers, chain)
		trashed = append(trashed, trash)
	}
	s.mu.Unlock()
	for _, trash := range trashed {
		failures = append(failures, trees.Remove(trash))
	}
	return errors.Join(failures...)
}

// trash moves a directory out of the way at once; its removal may take a while, and Open goes on with it.
func (s *Store) trash(dir string) (string, error) {
	// A name of its own and no directory: making one costs more than all the rest of this.
	trash := s.path("tmp", "trash-"+rand.Text())
	if err := os.Rename(dir, trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return trash, nil
}
