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

// Unmount removes all volumes of a pod: first block volumes, then those of CSI drivers, by calling the driver, then everything
// that is mounted below the pod's directory, then the files. No file is removed while something is still mounted, since it might
// be the host's.
//
// Upstream: pkg/kubelet/volumemanager/volume_manager.go WaitForUnmount, then kubelet_volumes.go cleanupOrphanedPodDirs.
func (m *Manager) Unmount(ctx context.Context, uid types.UID) error {
	if uid == "" || strings.ContainsAny(string(uid), "/\x00") || uid == "." || uid == ".." {
		return fmt.Errorf("unmount volumes: %q is not a pod's UID", uid)
	}
	if err := m.endRepublishing(ctx, uid); err != nil {
		return err
	}
	m.letGo(uid)
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
	if err := m.unmapAll(ctx, pod); err != nil {
		return err
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

// unmountCSI calls the drivers of the pod's volumes to unmount them. Without an apiserver there are no drivers; volumes that
// were mounted before then stay until there is one.
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
