package criserver

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// unmount takes away what is mounted at a path. Nothing mounted there is no error.
func unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}
