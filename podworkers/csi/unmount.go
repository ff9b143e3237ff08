package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// Unmount takes a pod's volume away, by what is written in its directory alone. The last pod's volume is also taken off
// the node; where that fails Sweep does it later. A volume whose record is broken is the caller's to unmount: its driver
// is not known.
//
// Upstream: pkg/volume/csi/csi_mounter.go TearDownAt.
func (m *Manager) Unmount(ctx context.Context, dir string) error {
	d, err := load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // never mounted, or not any more
	}
	if err != nil {
		return err
	}
	release, err := m.locks.Take(ctx, d.id())
	if err != nil {
		return err
	}
	defer release()
	conn, err := m.open(d.Driver)
	if err != nil {
		return err
	}
	defer conn.Close()
	target := filepath.Join(dir, "mount")
	if err := conn.unpublish(ctx, d.id(), target); err != nil {
		return err
	}
	if err := removeMount(target); err != nil {
		return err
	}
	if hasData(dir) {
		return fmt.Errorf("driver %s left volume %s mounted on %s", d.Driver, d.Handle, target)
	}
	if d.Lifecycle == storagev1.VolumeLifecycleEphemeral {
		return nil
	}
	if err := m.unstageUnused(ctx, d.id()); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Taking a volume off the node failed, will be retried", "driver", d.Driver, "volumeHandle", d.Handle)
	}
	return nil
}

// Release notes that a pod that is gone, and whose volumes are, wants none any more.
func (m *Manager) Release(ctx context.Context, uid types.UID) {
	m.mu.Lock()
	var left []volumeID
	for v, users := range m.wanted {
		if !users[uid] {
			continue
		}
		if delete(users, uid); len(users) == 0 {
			delete(m.wanted, v)
			left = append(left, v)
		}
	}
	m.mu.Unlock()
	for _, v := range left {
		if err := m.unstage(ctx, v); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Taking a volume off the node failed, will be retried", "driver", v.driver, "volumeHandle", v.handle)
		}
	}
}

// Sweep takes volumes off the node that no pod has: of a kubelet that was killed in between, or of a driver that failed.
//
// Upstream: pkg/kubelet/volumemanager/reconciler/reconstruct.go cleanOrphanVolumes.
func (m *Manager) Sweep(ctx context.Context) error {
	stagings, err := m.stagings()
	if err != nil {
		return err
	}
	unused := map[volumeID]bool{}
	for _, d := range stagings {
		unused[d.id()] = true
	}
	m.mu.Lock()
	maps.Copy(unused, m.inUse) // also those whose drivers stage nothing
	m.mu.Unlock()
	var errs []error
	for v := range unused {
		errs = append(errs, m.unstage(ctx, v))
	}
	return errors.Join(errs...)
}

func (m *Manager) unstage(ctx context.Context, v volumeID) error {
	release, err := m.locks.Take(ctx, v)
	if err != nil {
		return err
	}
	defer release()
	return m.unstageUnused(ctx, v)
}

// unstageUnused takes a volume off the node if no pod has it or wants it. Callers hold its lock.
//
// Upstream: pkg/volume/csi/csi_attacher.go UnmountDevice.
func (m *Manager) unstageUnused(ctx context.Context, v volumeID) error {
	users, err := m.published()
	if err != nil {
		return err
	}
	if unknown, err := m.unknownUsers(); err != nil || unknown {
		return err // one of these may have it; Sweep comes again
	}
	m.mu.Lock()
	wanted := len(m.wanted[v]) > 0
	m.mu.Unlock()
	if wanted || slices.ContainsFunc(slices.Collect(maps.Values(users)), func(d data) bool { return d.id() == v }) {
		return nil
	}
	dir := m.staging(v)
	left, err := staged(dir)
	if err != nil {
		return err
	}
	if left {
		if err := m.unstageFrom(ctx, v, dir); err != nil {
			return err
		}
	}
	if err := m.unstageBlocks(ctx, v); err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.staged, v)
	delete(m.inUse, v)
	m.mu.Unlock()
	m.opts.InUseChanged()
	return nil
}

// staged tells whether a volume may be staged: its record says so, or is broken or lost while the volume is mounted.
func staged(dir string) (bool, error) {
	if hasData(filepath.Dir(dir)) {
		return true, nil
	}
	mounted, err := mountinfo.Mounted(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return mounted, err
}

func (m *Manager) unstageFrom(ctx context.Context, v volumeID, dir string) error {
	conn, can, err := m.dial(ctx, v.driver)
	if err != nil {
		return err
	}
	defer conn.Close()
	if can.stage() {
		if err := conn.unstage(ctx, v, dir); err != nil {
			return err
		}
	}
	if err := removeMount(dir); err != nil {
		return err
	}
	if hasData(filepath.Dir(dir)) {
		return fmt.Errorf("driver %s left volume %s mounted on %s", v.driver, v.handle, dir)
	}
	return nil
}
