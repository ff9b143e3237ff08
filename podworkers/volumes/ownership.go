package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// Upstream: pkg/volume/volume_linux.go.
const (
	fileMask = fs.FileMode(0o660)
	dirMask  = fileMask | 0o110 | fs.ModeSetgid
)

// changePolicy says whether a volume whose top already is the group's is left as it is.
func changePolicy(pod *corev1.Pod) corev1.PodFSGroupChangePolicy {
	if s := pod.Spec.SecurityContext; s != nil && s.FSGroupChangePolicy != nil {
		return *s.FSGroupChangePolicy
	}
	return corev1.FSGroupChangeAlways
}

// setOwnership gives a volume's files to a group, with the owner's permissions, and sets the setgid bit of its directories so
// that new files belong to the group too. Other pods may change the volume meanwhile, so links are not followed.
func setOwnership(ctx context.Context, dir string, group int64, policy corev1.PodFSGroupChangePolicy) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	top, err := root.Stat(".")
	if err != nil {
		return err
	}
	if policy == corev1.FSGroupChangeOnRootMismatch && owned(top, group) {
		return nil
	}
	err = fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if path == "." {
			return nil // the top comes last: its ownership says that all below it is done
		}
		return own(root, path, group)
	})
	if err != nil {
		return fmt.Errorf("set the volume's group: %w", err)
	}
	return own(root, ".", group)
}

// owned tells whether a volume's top is as setOwnership leaves it.
func owned(top fs.FileInfo, group int64) bool {
	stat, ok := top.Sys().(*syscall.Stat_t)
	return ok && int64(stat.Gid) == group && top.Mode()&dirMask == dirMask
}

func own(root *os.Root, path string, group int64) error {
	err := root.Lchown(path, -1, int(group))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it went meanwhile
	}
	if err != nil {
		return err
	}
	info, err := root.Lstat(path)
	if err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return ignoreGone(err)
	}
	mask := fileMask
	if info.IsDir() {
		mask = dirMask
	}
	return ignoreGone(root.Chmod(path, info.Mode()|mask))
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
