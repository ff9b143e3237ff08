package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"minikubelet/runtime/mounts"
)

// mountTmpfs mounts memory on a directory, unless it is mounted already; size is its limit in bytes, 0 for none.
func mountTmpfs(dir string, size int64, a access) error {
	mounted, err := isMountpoint(dir)
	if err != nil || mounted {
		return err
	}
	options := a.options()
	if size > 0 {
		options += fmt.Sprintf(",size=%d", size)
	}
	// Secrets in memory must not be swapped to a disk. Kernels before 6.3 do not know the option noswap.
	err = unix.Mount("tmpfs", dir, "tmpfs", 0, options+",noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, options)
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	return nil
}

// mountHugePages mounts huge pages on a directory, unless they are mounted already.
//
// Upstream: pkg/volume/emptydir/empty_dir.go setupHugepages.
func mountHugePages(pod *corev1.Pod, medium corev1.StorageMedium, dir string, a access) error {
	size, err := pageSize(pod, medium)
	if err != nil {
		return err
	}
	mounted, err := isMountpoint(dir)
	if err != nil || mounted {
		return err
	}
	if err := unix.Mount("nodev", dir, "hugetlbfs", 0, fmt.Sprintf("pagesize=%d,%s", size.Value(), a.options())); err != nil {
		return fmt.Errorf("mount huge pages of %s on %s: %w", size.String(), dir, err)
	}
	return unix.Chmod(dir, a.mode) // the mount option knows no setgid bit
}

// bind mounts a directory on another, unless something is mounted there already, and tells whether it did. The source is opened
// first and mounted by its file descriptor, so that it cannot be replaced between a check and the mount.
func bind(source, dir string, flags uintptr) (made bool, err error) {
	mounted, err := mountinfo.Mounted(dir)
	if err != nil || mounted {
		return false, err
	}
	held, err := os.OpenFile(source, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return false, err
	}
	defer held.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", held.Fd()), dir, "", unix.MS_BIND, ""); err != nil {
		return false, fmt.Errorf("bind %s to %s: %w", source, dir, err)
	}
	if flags == 0 {
		return true, nil
	}
	// The flags that it has from its source would be lost.
	const kept = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	var fs unix.Statfs_t
	err = unix.Statfs(dir, &fs)
	if err == nil {
		err = unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|flags|uintptr(fs.Flags)&kept, "")
	}
	if err != nil {
		return false, fmt.Errorf("set the mount options of %s: %w", dir, errors.Join(err, unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)))
	}
	return true, nil
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

// unmountBelow unmounts everything at and below a directory, the last mounted first. It returns an error while anything
// is mounted there: what the caller removes next could be what a mount shows.
func unmountBelow(ctx context.Context, dir string) error {
	found, err := mounts.Below(dir)
	if err != nil || len(found) == 0 {
		return err
	}
	refused := map[string]error{}
	for _, mount := range slices.Backward(found) {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := unix.Unmount(mount.Mountpoint, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			// A process outside the pod uses the mount. It is detached: gone from the directory now, and for that process later.
			err = unix.Unmount(mount.Mountpoint, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		refused[mount.Mountpoint] = err // EINVAL and ENOENT: it may have gone by itself, with another mount
	}
	left, err := mounts.Below(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, mount := range left {
		err := refused[mount.Mountpoint]
		if err == nil {
			err = errors.New("it is still mounted")
		}
		errs = append(errs, fmt.Errorf("unmount %s: %w", mount.Mountpoint, err))
	}
	return errors.Join(errs...)
}
