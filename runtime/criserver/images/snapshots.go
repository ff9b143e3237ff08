package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// makeSnapshot makes the directory of a snapshot. From then on its layers stay, whatever becomes of the image.
func (s *Store) makeSnapshot(key, imageID, mount string, owner *Owner) (snapshot, error) {
	s.mu.Lock()
	r := s.images[imageID]
	if r == nil {
		s.mu.Unlock()
		return snapshot{}, ErrNotFound
	}
	release := s.claim(r.Chains)
	s.mu.Unlock()
	defer release()
	snap := snapshot{Image: imageID, Mount: mount, Chains: r.Chains, Boot: s.boot}
	temp, err := os.MkdirTemp(s.path("tmp"), "snapshot-")
	if err != nil {
		return snapshot{}, err
	}
	if err = s.fillSnapshot(temp, snap, owner); err == nil {
		err = os.Rename(temp, s.snapshotPath(key))
	}
	if err != nil {
		return snapshot{}, errors.Join(err, trees.Remove(temp))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots[key] = snap
	return snap, nil
}

func (s *Store) fillSnapshot(dir string, snap snapshot, owner *Owner) error {
	for _, name := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	if err := copyRoot(s.lowerDirs(snap.Chains)[0], filepath.Join(dir, "upper"), len(snap.Chains) == 0, owner); err != nil {
		return fmt.Errorf("copy the attributes of the image's root: %w", err)
	}
	content, err := json.Marshal(snap)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "snapshot.json"), content, 0o600)
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
