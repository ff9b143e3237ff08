package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// Unmount takes all volumes of a pod away: those of CSI drivers through these, then what is mounted below its directory,
// whoever mounted it and when, and then the files. Nothing is removed while something is still mounted, since that
// might be the host's.
//
// Upstream: pkg/kubelet/volumemanager/volume_manager.go WaitForUnmount, then kubelet_volumes.go cleanupOrphanedPodDirs.
func (m *Manager) Unmount(ctx context.Context, uid types.UID) error {
	if uid == "" || strings.ContainsAny(string(uid), "/\x00") || uid == "." || uid == ".." {
		return fmt.Errorf("unmount volumes: %q is not a pod's UID", uid)
	}
	if err := m.endRepublishing(ctx, uid); err != nil {
		return err
	}
	if err := m.unmount(ctx, m.podDir(uid)); err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.places, uid)
	delete(m.standing, uid)
	m.mu.Unlock()
	m.metrics.forget(uid)
	if m.opts.CSI != nil {
		m.opts.CSI.Release(ctx, uid)
	}
	return nil
}

func (m *Manager) unmount(ctx context.Context, pod string) error {
	if _, err := os.Lstat(pod); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, part := range []string{"volume-subpaths", "volumes"} {
		below := filepath.Join(pod, part)
		if _, err := os.Lstat(below); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := m.unmountCSI(ctx, filepath.Join(below, "kubernetes.io~csi")); err != nil {
			return err
		}
		if err := unmountBelow(ctx, below); err != nil {
			return err
		}
		if err := os.RemoveAll(below); err != nil {
			return fmt.Errorf("remove volumes: %w", err)
		}
	}
	return nil
}

// unmountCSI has drivers take away what they mounted. Without an apiserver there are no drivers; what one mounted before
// waits until there is.
func (m *Manager) unmountCSI(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list CSI volumes: %w", err)
	}
	if m.opts.CSI == nil && len(entries) > 0 {
		return errors.New("there are CSI volumes, which a kubelet without an apiserver cannot take away")
	}
	var errs []error
	for _, entry := range entries {
		if err := m.opts.CSI.Unmount(ctx, filepath.Join(dir, entry.Name())); err != nil {
			errs = append(errs, fmt.Errorf("UnmountVolume.TearDown failed for volume %q : %w", entry.Name(), err))
		}
	}
	return errors.Join(errs...)
}
