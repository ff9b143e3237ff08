package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/trees"
)

// Owner is to whom the files of a mounted image belong: what a user namespace makes of their
// owners. Nil means as the image has it.
type Owner struct {
	UserNS string // the file of the namespace
	// OnMachine are the machine's IDs of a user and a group of the namespace.
	OnMachine func(uid, gid int) (int, int, error)
}

// mappedDir holds, for a moment, a snapshot's layers with owners that a user namespace can do
// something with.
const mappedDir = "mapped"

// mapLayers mounts each layer below the snapshot's directory as a user namespace sees it. An
// overlay keeps what it was made of: the mounts are let go once it is there. Its upper directory
// is not mapped: what is written has the machine's IDs.
func mapLayers(snapshot string, lower []string, owner *Owner) (_ []string, err error) {
	userns, err := os.Open(owner.UserNS)
	if err != nil {
		return nil, fmt.Errorf("open user namespace: %w", err)
	}
	defer userns.Close()
	base := filepath.Join(snapshot, mappedDir)
	if err := os.Mkdir(base, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	mapped := make([]string, len(lower))
	for i, layer := range lower {
		mapped[i] = filepath.Join(base, strconv.Itoa(i))
		if err := os.Mkdir(mapped[i], 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err := mountMapped(layer, mapped[i], int(userns.Fd())); err != nil {
			return nil, fmt.Errorf("map the owners of a layer: %w", err)
		}
	}
	return mapped, nil
}

func mountMapped(source, target string, userns int) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open mount: %w", err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(userns)}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("map IDs of mount: %w", err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount with mapped IDs: %w", err)
	}
	return nil
}

// unmapLayers takes back mapLayers, also that of a server that was killed half way.
func unmapLayers(snapshot string) error {
	base := filepath.Join(snapshot, mappedDir)
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	failed := []error{err}
	for _, entry := range entries {
		path := filepath.Join(base, entry.Name())
		_ = unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // what stays mounted is found below
	}
	return errors.Join(append(failed, trees.RemoveMounted(base))...)
}

// CanMap tells whether the kernel can show images to a user namespace: layers with mapped
// owners, and an overlay of them. It tries.
func (s *Store) CanMap(owner *Owner) error {
	dir, err := os.MkdirTemp(s.path("tmp"), "probe-")
	if err != nil {
		return err
	}
	defer func() { _ = trees.RemoveMounted(dir) }() // or the next start does
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	merged := filepath.Join(dir, "merged")
	err = mountOwned(dir, []string{filepath.Join(dir, "lower")}, merged, owner)
	if err != nil {
		return fmt.Errorf("mount an image for a user namespace: %w", err)
	}
	return unix.Unmount(merged, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
}

// mountOwned is mountOverlay for files that are to belong to somebody else.
func mountOwned(snapshot string, lower []string, dir string, owner *Owner) error {
	if owner == nil {
		return mountOverlay(snapshot, lower, dir)
	}
	mapped, err := mapLayers(snapshot, lower, owner)
	if err == nil {
		err = mountOverlay(snapshot, mapped, dir)
	}
	return errors.Join(err, unmapLayers(snapshot))
}
