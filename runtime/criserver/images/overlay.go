package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/namespaces"
	"minikubelet/runtime/criserver/trees"
)

// Owner says which user namespace the files of a mounted image belong to. Nil leaves them to the owners that the image
// gives them.
type Owner struct {
	UserNS string // the namespace's file
	// OnMachine returns the machine's IDs of a user and a group of the namespace.
	OnMachine func(uid, gid int) (int, int, error)
}

// mountOverlay mounts the upper directory of a snapshot over layers, the topmost of which comes first.
//
// The options of mount(2) have room for one page, which is about 40 paths. So each layer gets a short name in a directory,
// relative to which the kernel reads the options: that is enough for 500. With an owner the name is a mount that shows the
// layer's files as the user namespace sees them; the upper directory needs none, since what is written there has the
// machine's IDs. The overlay keeps what it was made of, so the names go once it is mounted.
func mountOverlay(snapshot string, layers []string, dir string, owner *Owner) (err error) {
	lower := filepath.Join(snapshot, "lower")
	// A server that was killed may have left names. The kernel refuses a writable layer with the directory "incompat",
	// which an earlier volatile mount has left, since not all of the layer may be on the disk.
	if err := errors.Join(trees.RemoveMounted(lower), trees.Remove(filepath.Join(snapshot, "work", "work", "incompat"))); err != nil {
		return fmt.Errorf("mount a writable layer again: %w", err)
	}
	if err := os.Mkdir(lower, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, trees.RemoveMounted(lower)) }()
	show := os.Symlink
	if owner != nil {
		userns, err := os.Open(owner.UserNS)
		if err != nil {
			return fmt.Errorf("open user namespace: %w", err)
		}
		defer userns.Close()
		show = func(layer, name string) error { return mountMapped(layer, name, int(userns.Fd())) }
	}
	names := make([]string, len(layers))
	for i, layer := range layers {
		names[i] = strconv.Itoa(i)
		if err := show(layer, filepath.Join(lower, names[i])); err != nil {
			return err
		}
	}
	result := make(chan error)
	namespaces.OnThread(func() { result <- mountIn(lower, names, dir) })
	return <-result
}

// mountIn changes the working directory of its thread, which must end with it.
func mountIn(lower string, names []string, dir string) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("give a thread its own directory: %w", err)
	}
	if err := unix.Chdir(lower); err != nil {
		return fmt.Errorf("change to %s: %w", lower, err)
	}
	// Without an index the upper directory is not tied to these very lower ones. A volatile overlay does not write out
	// the whole file system of its upper directory when it is unmounted, for which other containers would have to wait;
	// what does not get to the disk is not missed, since no container outlives the machine.
	options := "lowerdir=" + strings.Join(names, ":") + ",upperdir=../upper,workdir=../work,index=off,volatile"
	if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay of %d layers at %s (the kernel's log may say why): %w", len(names), dir, err)
	}
	return nil
}

// mountMapped mounts a directory read-only, with its owners as a user namespace sees them.
func mountMapped(source, target string, userns int) error {
	if err := os.Mkdir(target, 0o700); err != nil {
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open layer: %w", err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(userns)}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("map the owners of a layer: %w", err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount a layer with mapped owners: %w", err)
	}
	return nil
}

// probe refuses a directory that cannot hold containers' root file systems, at the start rather than for each container. On a
// full disk it finds out nothing.
func (s *Store) probe(ctx context.Context) error {
	err := s.CanMap(nil)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		klog.FromContext(ctx).Error(err, "Could not try whether containers can have their root file systems in the image store", "dir", s.options.Root)
		return nil
	}
	if err != nil {
		return fmt.Errorf("containers cannot have their root file systems in this directory: they are volatile overlays, which need Linux 5.10 and a "+
			"file system such as ext4, btrfs, or xfs with ftype=1, that is not an overlay itself: %w", err)
	}
	return nil
}

// CanMap tries whether the kernel can show images to a user namespace, or without an owner at all: layers with mapped owners,
// and an overlay of them.
func (s *Store) CanMap(owner *Owner) error {
	dir, err := os.MkdirTemp(s.path("tmp"), "probe-")
	if err != nil {
		return err
	}
	defer func() { _ = trees.RemoveMounted(dir) }() // or the next start does
	layer, upper, merged := filepath.Join(dir, "layer"), filepath.Join(dir, "upper"), filepath.Join(dir, "merged")
	for _, made := range []string{layer, upper, filepath.Join(dir, "work"), merged} {
		if err := os.Mkdir(made, 0o755); err != nil {
			return err
		}
	}
	err = errors.Join(os.WriteFile(filepath.Join(layer, "removed"), nil, 0o600), unix.Mknod(filepath.Join(upper, "removed"), unix.S_IFCHR, 0))
	if err == nil {
		err = mountOverlay(dir, []string{layer}, merged, owner)
	}
	if err != nil {
		return fmt.Errorf("mount an image: %w", err)
	}
	// The kernel hides whiteouts only if directories tell the types of their entries. os.ReadDir would ask for each.
	list, err := os.Open(merged)
	if err != nil {
		return err
	}
	defer list.Close()
	names, err := list.Readdirnames(-1)
	if len(names) > 0 {
		err = errors.New("its directories do not tell the types of files, so that files which an image removes would show")
	}
	return err
}
