package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// RemovePod removes the pod's directory: its volumes, the files that its containers had from the kubelet, and the
// directory itself. Nothing of the pod may run.
//
// Upstream: pkg/kubelet/kubelet_volumes.go cleanupOrphanedPodDirs, pkg/kubelet/volumemanager/reconciler/reconstruct.go.
func (m *Manager) RemovePod(ctx context.Context, uid types.UID) error {
	if err := m.Unmount(ctx, uid); err != nil {
		return err
	}
	dir := m.podDir(uid)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := unmountBelow(ctx, dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the pod's directory: %w", err)
	}
	return nil
}

// RemoveOrphans removes the volumes and directories of pods that are not known, most of which went while no kubelet ran, and
// what CSI drivers still have mounted for such pods. known is called after a directory was found: a directory that was made
// meanwhile then belongs to a known pod.
func (m *Manager) RemoveOrphans(ctx context.Context, known func(types.UID) bool) error {
	entries, err := os.ReadDir(m.opts.PodsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list the directories of pods: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		uid := types.UID(entry.Name())
		if !entry.IsDir() || known(uid) {
			continue
		}
		klog.FromContext(ctx).Info("Removing the directory of a pod that is gone", "podUID", uid)
		errs = append(errs, m.RemovePod(ctx, uid))
	}
	if m.opts.CSI != nil {
		errs = append(errs, m.opts.CSI.Sweep(ctx))
	}
	return errors.Join(errs...)
}
