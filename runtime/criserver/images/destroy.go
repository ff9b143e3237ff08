package images

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/trees"
)

// Remove removes an image with all its names, and the layers that nothing else needs: other images, mounted snapshots
// (Unmount deletes theirs), pulls. What an earlier pull that failed left behind goes too. An image that is not there is
// no error.
func (s *Store) Remove(ctx context.Context, ref string) error {
	s.mu.Lock()
	r := cmp.Or(find(s.images, ref), find(s.leaving, ref))
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	if err := s.destroyImage(r.ID); err != nil {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	klog.FromContext(ctx).Info("Removed image", "imageID", r.ID, "tags", r.Tags)
	return nil
}

// destroyImage undoes a pull. It may be called again: an image of which something could not be deleted is not found any
// more, but listed until a later call has deleted it. Its file goes first, since a start deletes all layers that no
// record needs, and an image with half of its layers must not be found after one.
func (s *Store) destroyImage(id string) error {
	s.commits.Lock()
	err := os.Remove(s.recordFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	s.mu.Lock()
	if r := s.images[id]; r != nil && err == nil {
		s.leaving[id] = r
		delete(s.images, id)
	}
	trash, unused := s.trash, slices.Collect(maps.Keys(s.layers))
	s.trash = nil
	s.mu.Unlock()
	s.commits.Unlock()
	if err = errors.Join(err, s.empty(trash), s.sweepLayers(unused), s.sweepBlobs(0)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leaving, id)
	return nil
}

// sweepLayers deletes those of the layers that nothing needs.
func (s *Store) sweepLayers(chains []string) error {
	var trash []string
	var failures []error
	s.mu.Lock()
	used := s.usedLayers()
	for _, chain := range chains {
		if used[chain] {
			continue
		}
		// The mutex is held, so that no work in flight claims the layer between the check and the rename. The new name is
		// random, since a new directory for it would cost more than all the rest of this.
		dir := s.path("tmp", "trash-"+rand.Text())
		if err := os.Rename(s.path("layers", chain), dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failures = append(failures, err)
			continue
		}
		delete(s.layers, chain)
		trash = append(trash, dir)
	}
	s.mu.Unlock()
	return errors.Join(append(failures, s.empty(trash))...)
}

// empty deletes directories that were moved out of the way. Those that it cannot delete are left to the next removal of
// an image and the next start.
func (s *Store) empty(trash []string) error {
	var failures []error
	for _, dir := range trash {
		if err := trees.Remove(dir); err != nil {
			failures = append(failures, err)
			s.mu.Lock()
			s.trash = append(s.trash, dir)
			s.mu.Unlock()
		}
	}
	return errors.Join(failures...)
}

// usedLayers has the layers of images, snapshots and work in flight; s.mu must be held once the store is open.
func (s *Store) usedLayers() map[string]bool {
	used := map[string]bool{}
	use := func(chains []string) {
		for _, chain := range chains {
			used[chain] = true
		}
	}
	for _, r := range s.images {
		use(r.Chains)
	}
	for _, snap := range s.snapshots {
		use(snap.Chains)
	}
	for i := range s.installing {
		use(i.Chains)
	}
	return used
}
