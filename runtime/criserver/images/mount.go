package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/diskusage"
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
	r := s.images[imageID]
	switch {
	case exists && (snap.Image != imageID || snap.Mount != dir):
		err = fmt.Errorf("it exists, of image %s and mounted at %s", snap.Image, snap.Mount)
	case !exists && r == nil:
		err = ErrNotFound
	case !exists:
		snap = snapshot{Image: imageID, Mount: dir, Chains: r.Chains, Boot: s.boot}
		s.snapshots[key] = snap // from now on its layers stay, whatever becomes of the image
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("make snapshot %s of image %s: %w", key, imageID, err)
	}
	if !exists {
		err = s.makeSnapshot(key, snap, owner)
	}
	if err == nil {
		err = s.mountSnapshot(key, snap, owner)
	}
	if err != nil {
		if !exists {
			err = errors.Join(err, s.destroySnapshot(key, dir))
		}
		return fmt.Errorf("mount snapshot %s of image %s: %w", key, imageID, err)
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

// A snapshot is a directory Root/snapshots/<key> with upper and work for overlayfs, and this in snapshot.json, which is
// written before the directory gets its name.
type snapshot struct {
	Image  string   `json:"image"`
	Mount  string   `json:"mount"`
	Chains []string `json:"chains"` // of its layers, the lowest first
	Boot   string   `json:"boot"`   // of the machine: a mount of an earlier one is gone, and needs no layers
}

// validKey tells whether a key can be the name of a directory, and that of a directory can be a key.
func validKey(key string) bool {
	const all = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.-"
	return key != "" && key[0] != '.' && len(key) <= 128 && strings.Trim(key, all) == ""
}

func (s *Store) snapshotPath(key string, elements ...string) string {
	return s.path(append([]string{"snapshots", key}, elements...)...)
}

// makeSnapshot makes the directory of a snapshot.
func (s *Store) makeSnapshot(key string, snap snapshot, owner *Owner) error {
	temp, err := os.MkdirTemp(s.path("tmp"), "snapshot-")
	if err != nil {
		return err
	}
	content, err := json.Marshal(snap)
	if err == nil {
		upper := filepath.Join(temp, "upper")
		err = errors.Join(os.Mkdir(upper, 0o700), os.Mkdir(filepath.Join(temp, "work"), 0o700),
			copyRoot(s.lowerDirs(snap.Chains)[0], upper, len(snap.Chains) == 0, owner),
			os.WriteFile(filepath.Join(temp, "snapshot.json"), content, 0o600))
	}
	if err == nil {
		err = os.Rename(temp, s.snapshotPath(key))
	}
	if err != nil {
		err = errors.Join(err, trees.Remove(temp))
	}
	return err
}

// copyRoot gives the upper directory the owner and mode of the topmost layer's root: they are those of the container's.
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
	return errors.Join(unix.Chown(to, uid, gid), unix.Chmod(to, mode))
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
		var snap snapshot
		if err := bounded.ReadJSON(s.snapshotPath(d.Name(), "snapshot.json"), 1<<20, &snap); err != nil { // only a loss of power does that, and then it is not mounted either
			klog.FromContext(ctx).Error(err, "A snapshot cannot be used again; Unmount removes it", "snapshot", d.Name())
			snap = snapshot{}
		}
		if snap.Boot != "" && snap.Boot != s.boot {
			// The machine may have stopped before its layers were on the disk. Only an image's record can tell.
			snap.Chains = nil
		}
		s.snapshots[d.Name()] = snap
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
