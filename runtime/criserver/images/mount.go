package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/trees"
)

// Mount mounts an image for one container at dir, with a writable layer that is called key. It is done once: a second
// call with the same arguments, also after a restart, finds the mount, or mounts the same writable layer again.
// With an owner the image's files belong to a user namespace.
func (s *Store) Mount(ctx context.Context, key, imageID, dir string, owner *Owner) (err error) {
	if !validKey(key) {
		return fmt.Errorf("snapshot key %q is not valid", shorten(key))
	}
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("mount snapshot %s: %q is not an absolute path", key, dir)
	}
	unlock, err := s.busy.lock(ctx, "snapshot "+key)
	if err != nil {
		return err
	}
	defer unlock()
	s.mu.Lock()
	snap, exists := s.snapshots[key]
	s.mu.Unlock()
	switch {
	case !exists:
		snap, err = s.makeSnapshot(key, imageID, dir, owner)
	case snap.Image != imageID || snap.Mount != dir:
		err = fmt.Errorf("it exists, of image %s and mounted at %s", snap.Image, snap.Mount)
	}
	if err != nil {
		return fmt.Errorf("make snapshot %s of image %s: %w", key, imageID, err)
	}
	if err := s.mountSnapshot(key, snap, owner); err != nil {
		if !exists {
			err = errors.Join(err, s.destroySnapshot(key, dir))
		}
		return fmt.Errorf("mount snapshot %s: %w", key, err)
	}
	klog.FromContext(ctx).V(4).Info("Mounted snapshot", "snapshot", key, "imageID", imageID, "dir", dir, "layers", len(snap.Chains))
	return nil
}

func (s *Store) mountSnapshot(key string, snap snapshot, owner *Owner) error {
	if err := os.MkdirAll(snap.Mount, 0o755); err != nil {
		return err
	}
	if mounted, err := mountinfo.Mounted(snap.Mount); err != nil || mounted {
		return err
	}
	return mountOverlay(s.snapshotPath(key), s.lowerDirs(snap.Chains), snap.Mount, owner)
}

// lowerDirs are the layers' files, topmost first; an image without layers has an empty directory.
func (s *Store) lowerDirs(chains []string) []string {
	if len(chains) == 0 {
		return []string{s.path("empty")}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dirs := make([]string, 0, len(chains))
	for _, chain := range slices.Backward(chains) {
		dirs = append(dirs, s.layerFS(chain))
		if s.layers[chain].Opaque {
			break
		}
	}
	return dirs
}

// Unmount unmounts dir and removes the writable layer, and layers that only it still needed. What is gone already is no
// error.
func (s *Store) Unmount(key, dir string) error {
	if !validKey(key) {
		return fmt.Errorf("snapshot key %q is not valid", shorten(key))
	}
	unlock, err := s.busy.lock(context.Background(), "snapshot "+key)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.destroySnapshot(key, dir); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	return nil
}

// destroySnapshot undoes Mount, however far that came. It may be called again, and the record goes last: what could not
// be undone is tried again by the next call, or after the next start. The caller holds the snapshot's lock.
func (s *Store) destroySnapshot(key, dir string) error {
	if err := trees.Detach(dir); err != nil {
		return err
	}
	for _, name := range []string{"lower", "upper", "work"} {
		if err := trees.RemoveMounted(s.snapshotPath(key, name)); err != nil {
			return err
		}
	}
	if err := trees.Remove(s.snapshotPath(key)); err != nil {
		return err
	}
	s.mu.Lock()
	chains := s.snapshots[key].Chains
	delete(s.snapshots, key)
	s.mu.Unlock()
	return s.sweepLayers(chains)
}
