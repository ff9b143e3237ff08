package images

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/diskusage"
	"minikubelet/runtime/criserver/trees"
)

// A snapshot is a directory Root/snapshots/<key> with upper and work for overlayfs, and this in snapshot.json, which is
// written before the directory gets its name.
type snapshot struct {
	Image  string   `json:"image"`
	Mount  string   `json:"mount"`
	Chains []string `json:"chains"` // of its layers, the lowest first
	Boot   string   `json:"boot"`   // of the machine: a mount of an earlier one is gone, and needs no layers
}

// validKey tells whether a key can be the name of a directory: up to 128 letters, digits and, but for the first, _ . and -
// (an expression for it would cost 120 KB, in every program with this package).
func validKey(key string) bool {
	for i, c := range []byte(key) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return key != "" && len(key) <= 128
}

func (s *Store) snapshotPath(key string, elements ...string) string {
	return s.path(append([]string{"snapshots", key}, elements...)...)
}

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
	want := snapshot{Image: imageID, Mount: dir, Boot: s.boot}
	s.mu.Lock()
	have, exists := s.snapshots[key]
	s.mu.Unlock()
	switch {
	case !exists:
		have, err = s.makeSnapshot(key, want, owner)
	case have.Image != want.Image || have.Mount != want.Mount:
		err = fmt.Errorf("it exists, of image %s and mounted at %s", have.Image, have.Mount)
	}
	if err != nil {
		return fmt.Errorf("make snapshot %s of image %s: %w", key, imageID, err)
	}
	if err := s.mountSnapshot(key, have, owner); err != nil {
		if !exists {
			err = errors.Join(err, s.dropSnapshot(key))
		}
		return fmt.Errorf("mount snapshot %s: %w", key, err)
	}
	klog.FromContext(ctx).V(4).Info("Mounted snapshot", "snapshot", key, "imageID", imageID, "dir", dir, "layers", len(have.Chains))
	return nil
}

// makeSnapshot makes the directory of a snapshot. From then on its layers stay, whatever becomes of the image.
func (s *Store) makeSnapshot(key string, want snapshot, owner *Owner) (snapshot, error) {
	s.mu.Lock()
	r := s.images[want.Image]
	if r == nil {
		s.mu.Unlock()
		return snapshot{}, ErrNotFound
	}
	release := s.claimLocked(r.Chains)
	s.mu.Unlock()
	defer release()
	want.Chains = r.Chains
	temp, err := os.MkdirTemp(s.path("tmp"), "snapshot-")
	if err != nil {
		return snapshot{}, err
	}
	if err := s.fillSnapshot(temp, want, owner); err != nil {
		return snapshot{}, errors.Join(err, trees.Remove(temp))
	}
	if err := os.Rename(temp, s.snapshotPath(key)); err != nil {
		return snapshot{}, errors.Join(err, trees.Remove(temp))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots[key] = want
	return want, nil
}

func (s *Store) fillSnapshot(dir string, want snapshot, owner *Owner) error {
	for _, name := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	if err := copyRoot(s.lowerDirs(want.Chains)[0], filepath.Join(dir, "upper"), len(want.Chains) == 0, owner); err != nil {
		return fmt.Errorf("copy the attributes of the image's root: %w", err)
	}
	content, err := json.Marshal(want)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "snapshot.json"), content, 0o600)
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

// copyRoot: the upper directory's owner and mode are those of the container's root directory.
func copyRoot(from, to string, empty bool, owner *Owner) error {
	var stat unix.Stat_t
	if err := unix.Stat(from, &stat); err != nil {
		return err
	}
	mode := stat.Mode & 0o7777
	if empty {
		mode = 0o755
	}
	uid, gid := int(stat.Uid), int(stat.Gid)
	if owner != nil {
		var err error
		if uid, gid, err = owner.OnMachine(uid, gid); err != nil {
			return err
		}
	}
	if err := unix.Chown(to, uid, gid); err != nil {
		return err
	}
	return unix.Chmod(to, mode)
}

func (s *Store) mountSnapshot(key string, snap snapshot, owner *Owner) error {
	if err := os.MkdirAll(snap.Mount, 0o755); err != nil {
		return err
	}
	if mounted, err := isOverlay(snap.Mount); err != nil || mounted {
		return err
	}
	return mountOwned(s.snapshotPath(key), s.lowerDirs(snap.Chains), snap.Mount, owner)
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
	if err := unmount(dir); err != nil {
		return fmt.Errorf("unmount snapshot %s: %w", key, err)
	}
	if err := errors.Join(unmapLayers(s.snapshotPath(key)), s.dropSnapshot(key)); err != nil {
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
	chains := s.snapshots[key].Chains
	delete(s.snapshots, key)
	s.mu.Unlock()
	return errors.Join(trees.Remove(trash), s.sweepLayers(chains))
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

// Snapshots are the keys that begin with a prefix.
func (s *Store) Snapshots(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for key := range s.snapshots {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	return keys
}

// SnapshotUsage tells what a container's writable layer takes. It is measured in the background: until ctx ends this waits
// for a measurement, then the last one counts, and if there is none yet, what was counted so far.
func (s *Store) SnapshotUsage(ctx context.Context, key string) (diskusage.Usage, error) {
	s.mu.Lock()
	_, exists := s.snapshots[key]
	s.mu.Unlock()
	if !exists {
		return diskusage.Usage{}, fmt.Errorf("measure snapshot %s: %w", shorten(key), fs.ErrNotExist)
	}
	usage, err := s.disk.Usage(ctx, s.snapshotPath(key, "upper"), 0)
	if err != nil && !errors.Is(err, diskusage.ErrNotMeasured) {
		return diskusage.Usage{}, fmt.Errorf("measure snapshot %s: %w", key, err)
	}
	return usage, nil
}

// loadSnapshots finds the snapshots there are, and with them layers that must not go.
func (s *Store) loadSnapshots(ctx context.Context) error {
	dirs, err := os.ReadDir(s.path("snapshots"))
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if !validKey(d.Name()) {
			continue // not ours
		}
		content, err := bounded.ReadFile(s.snapshotPath(d.Name(), "snapshot.json"), 1<<20)
		var snap snapshot
		if err == nil {
			err = json.Unmarshal(content, &snap)
		}
		if err != nil { // only a loss of power does that, and then it is not mounted either
			klog.FromContext(ctx).Error(err, "A snapshot cannot be used again; Unmount removes it", "snapshot", d.Name())
			snap = snapshot{}
		}
		s.snapshots[d.Name()] = snap
		if snap.Boot != "" && snap.Boot != s.boot {
			// The machine may have stopped before its layers were on the disk. Only an image's record can tell.
			snap.Chains = nil
			s.snapshots[d.Name()] = snap
		}
		for _, chain := range snap.Chains {
			l, err := s.readLayer(chain)
			if err != nil {
				klog.FromContext(ctx).Error(err, "A layer in use has no record", "chainID", chain)
			}
			s.layers[chain] = l // a mount may need it, so it is never made again in place
		}
	}
	return nil
}
