package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// mountTmpfs mounts memory on a directory, unless it is mounted already; size is its limit in bytes, 0 for none.
func mountTmpfs(dir string, size int64) error {
	mounted, err := isMountpoint(dir)
	if err != nil || mounted {
		return err
	}
	options := "mode=0755"
	if size > 0 {
		options += fmt.Sprintf(",size=%d", size)
	}
	// What a container has been given must not be swapped to a disk; kernels before 6.3 know no noswap.
	err = unix.Mount("tmpfs", dir, "tmpfs", 0, options+",noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, options)
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	return nil
}

// isMountpoint tells whether something is mounted on a directory of its own device.
func isMountpoint(dir string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Lstat(dir, &here); err != nil {
		return false, &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(dir), &above); err != nil {
		return false, &fs.PathError{Op: "lstat", Path: filepath.Dir(dir), Err: err}
	}
	return here.Dev != above.Dev, nil
}

// Unmount takes all volumes of a pod away: what is mounted below its directory, whoever mounted it and when, and then
// the files. Nothing is removed while something is still mounted, since that might be the host's.
//
// Upstream: pkg/kubelet/volumemanager/volume_manager.go WaitForUnmount, then kubelet_volumes.go cleanupOrphanedPodDirs.
func (m *Manager) Unmount(ctx context.Context, uid types.UID) (err error) {
	defer func() {
		if err == nil {
			m.metrics.forget(uid)
		}
	}()
	if uid == "" || strings.ContainsAny(string(uid), "/\x00") || uid == "." || uid == ".." {
		return fmt.Errorf("unmount volumes: %q is not a pod's UID", uid)
	}
	dir := m.podDir(uid)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, part := range []string{"volume-subpaths", "volumes"} {
		below := filepath.Join(dir, part)
		if _, err := os.Lstat(below); errors.Is(err, fs.ErrNotExist) {
			continue
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

// unmountBelow unmounts everything at and below a directory, the last mounted first.
func unmountBelow(ctx context.Context, dir string) error {
	real, err := filepath.EvalSymlinks(filepath.Dir(dir)) // mountinfo has real paths; dir itself is ours
	if err != nil {
		return err
	}
	dir = filepath.Join(real, filepath.Base(dir))
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	slices.Reverse(mounts)
	for _, mount := range mounts {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := unix.Unmount(mount.Mountpoint, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			// Someone outside the pod looks into it. It is gone for all others now, and for them when they leave.
			err = unix.Unmount(mount.Mountpoint, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", mount.Mountpoint, err)
		}
	}
	return nil
}
