package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// A snapshot is a directory Root/snapshots/<key> with
//
//	upper, work      for overlayfs
//	lower/<n>        links to the layers' files, the topmost first
//	image, mount     links that name the image, and where it is mounted
//
// The links are the record of it: they are made before the directory gets its name, and there is nothing to parse.

var validKey = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

func (s *Store) snapshotPath(key string, elements ...string) string {
	return s.path(append([]string{"snapshots", key}, elements...)...)
}

// Mount mounts an image for one container at dir, with a writable layer that is called key. It is done once: a second
// call with the same arguments, also after a restart, finds the mount, or mounts the same writable layer again.
func (s *Store) Mount(ctx context.Context, key, imageID, dir string) (err error) {
	if !validKey.MatchString(key) {
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
	chains, exists := s.snapshots[key]
	s.mu.Unlock()
	if exists {
		err = s.checkSnapshot(key, imageID, dir)
	} else {
		chains, err = s.makeSnapshot(key, imageID, dir)
	}
	if err != nil {
		return fmt.Errorf("make snapshot %s of image %s: %w", key, imageID, err)
	}
	if err := s.mountSnapshot(key, chains, dir); err != nil {
		if !exists {
			err = errors.Join(err, s.dropSnapshot(key))
		}
		return fmt.Errorf("mount snapshot %s: %w", key, err)
	}
	klog.FromContext(ctx).V(4).Info("Mounted snapshot", "snapshot", key, "imageID", imageID, "dir", dir, "layers", len(chains))
	return nil
}

// checkSnapshot compares a snapshot with what is asked for under its key.
func (s *Store) checkSnapshot(key, imageID, dir string) error {
	for name, want := range map[string]string{"image": imageID, "mount": dir} {
		got, err := os.Readlink(s.snapshotPath(key, name))
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("it exists with %s %s, not %s", name, got, want)
		}
	}
	return nil
}

// makeSnapshot makes the directory of a snapshot. From then on its layers stay, whatever becomes of the image.
func (s *Store) makeSnapshot(key, imageID, dir string) ([]string, error) {
	s.mu.Lock()
	r := s.images[imageID]
	if r == nil {
		s.mu.Unlock()
		return nil, ErrNotFound
	}
	release := s.claimLocked(r.Chains)
	s.mu.Unlock()
	defer release()
	temp, err := os.MkdirTemp(s.path("tmp"), "snapshot-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp) // after the rename it is gone
	for _, name := range []string{"upper", "work", "lower"} {
		if err := os.Mkdir(filepath.Join(temp, name), 0o700); err != nil {
			return nil, err
		}
	}
	lower := s.lowerDirs(r.Chains)
	for i, layer := range lower {
		relative := filepath.Join("..", "..", "..", "layers", filepath.Base(filepath.Dir(layer)), "fs")
		if len(r.Chains) == 0 {
			relative = filepath.Join("..", "..", "..", "empty")
		}
		if err := os.Symlink(relative, filepath.Join(temp, "lower", strconv.Itoa(i))); err != nil {
			return nil, err
		}
	}
	if err := copyRoot(lower[0], filepath.Join(temp, "upper"), len(r.Chains) == 0); err != nil {
		return nil, fmt.Errorf("copy the attributes of the image's root: %w", err)
	}
	if err := os.Symlink(imageID, filepath.Join(temp, "image")); err != nil {
		return nil, err
	}
	if err := os.Symlink(dir, filepath.Join(temp, "mount")); err != nil {
		return nil, err
	}
	if err := os.Rename(temp, s.snapshotPath(key)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots[key] = r.Chains
	return r.Chains, nil
}

// lowerDirs are the layers' files, topmost first; an image without layers has an empty directory.
func (s *Store) lowerDirs(chains []string) []string {
	if len(chains) == 0 {
		return []string{s.path("empty")}
	}
	dirs := make([]string, 0, len(chains))
	for _, chain := range slices.Backward(chains) {
		dirs = append(dirs, s.layerFS(chain))
	}
	return dirs
}

// copyRoot: the upper directory's owner and mode are those of the container's root directory.
func copyRoot(from, to string, empty bool) error {
	var stat unix.Stat_t
	if err := unix.Stat(from, &stat); err != nil {
		return err
	}
	mode := stat.Mode & 0o7777
	if empty {
		mode = 0o755
	}
	if err := unix.Chown(to, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	return unix.Chmod(to, mode)
}

func (s *Store) mountSnapshot(key string, chains []string, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if mounted, err := isOverlay(dir); err != nil || mounted {
		return err
	}
	return mountOverlay(s.snapshotPath(key), s.lowerDirs(chains), dir)
}

// Unmount unmounts dir and removes the writable layer, and layers that only it still needed. What is gone already is no
// error.
func (s *Store) Unmount(key, dir string) error {
	if !validKey.MatchString(key) {
		return fmt.Errorf("snapshot key %q is not valid", shorten(key))
	}
	unlock, err := s.busy.lock(context.Background(), "snapshot "+key)
	if err != nil {
		return err
	}
	defer unlock()
	if err := unmount(dir); err != nil {
		return fmt.Errorf("unmount snapshot %s: %w", key, err)
	}
	if err := s.dropSnapshot(key); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	return nil
}

// maxStacked is how many mounts over one another are taken away.
const maxStacked = 8

// unmount takes overlays away from dir. One that is in use is only detached: it goes when its last user does.
func unmount(dir string) error {
	for range maxStacked {
		mounted, err := isOverlay(dir)
		if err != nil || !mounted {
			return err
		}
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	return fmt.Errorf("unmount %s: more than %d mounts over one another", dir, maxStacked)
}

// dropSnapshot removes an unmounted snapshot; the caller holds its lock.
func (s *Store) dropSnapshot(key string) error {
	trash, err := s.trash(s.snapshotPath(key))
	if err != nil {
		return err
	}
	s.mu.Lock()
	chains := s.snapshots[key]
	delete(s.snapshots, key)
	s.mu.Unlock()
	return errors.Join(os.RemoveAll(trash), s.sweepLayers(chains))
}

// trash moves a directory out of the way at once; its removal may take a while, and Open goes on with it.
func (s *Store) trash(dir string) (string, error) {
	temp, err := os.MkdirTemp(s.path("tmp"), "trash-")
	if err != nil {
		return "", err
	}
	if err := os.Rename(dir, filepath.Join(temp, "it")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", errors.Join(err, os.Remove(temp))
	}
	return temp, nil
}

// Adopt removes the snapshots of other keys: at start, those of containers that are gone.
func (s *Store) Adopt(keys []string) error {
	s.mu.Lock()
	known := slices.Sorted(maps.Keys(s.snapshots))
	s.mu.Unlock()
	var failures []error
	for _, key := range known {
		if slices.Contains(keys, key) {
			continue
		}
		dir, err := os.Readlink(s.snapshotPath(key, "mount"))
		if err != nil {
			dir = "" // half of it is gone; so is the mount after the crash that did it
		}
		if err := s.Unmount(key, dir); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// SnapshotUsage measures a container's writable layer.
func (s *Store) SnapshotUsage(key string) (bytes, inodes uint64, err error) {
	s.mu.Lock()
	_, exists := s.snapshots[key]
	s.mu.Unlock()
	if !exists {
		return 0, 0, fmt.Errorf("measure snapshot %s: %w", shorten(key), fs.ErrNotExist)
	}
	bytes, inodes, err = diskUsage(s.snapshotPath(key, "upper"))
	if err != nil {
		return 0, 0, fmt.Errorf("measure snapshot %s: %w", key, err)
	}
	return bytes, inodes, nil
}

// loadSnapshots finds the snapshots there are, and with them layers that must not go.
func (s *Store) loadSnapshots(ctx context.Context) error {
	dirs, err := os.ReadDir(s.path("snapshots"))
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if !validKey.MatchString(d.Name()) {
			continue // not ours
		}
		chains, err := s.readSnapshot(d.Name())
		if err != nil {
			klog.FromContext(ctx).Error(err, "A snapshot cannot be used again; Adopt or Unmount removes it", "snapshot", d.Name())
		}
		s.snapshots[d.Name()] = chains
		for _, chain := range chains {
			l, err := s.readLayer(chain)
			if err != nil {
				klog.FromContext(ctx).Error(err, "A layer in use has no record", "chainID", chain)
			}
			s.layers[chain] = l // a mount may need it, so it is never made again in place
		}
	}
	return nil
}

// readSnapshot returns the chain IDs of a snapshot's layers, the lowest first.
func (s *Store) readSnapshot(key string) ([]string, error) {
	links, err := os.ReadDir(s.snapshotPath(key, "lower"))
	if err != nil {
		return nil, err
	}
	chains := make([]string, 0, len(links))
	for i := range links {
		target, err := os.Readlink(s.snapshotPath(key, "lower", strconv.Itoa(len(links)-1-i)))
		if err != nil {
			return nil, err
		}
		if filepath.Base(target) == "fs" {
			chains = append(chains, filepath.Base(filepath.Dir(target)))
		}
	}
	_, err = os.Readlink(s.snapshotPath(key, "mount"))
	return chains, err
}
