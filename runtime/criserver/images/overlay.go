package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/namespaces"
	"minikubelet/runtime/criserver/trees"
)

// mountOverlay mounts a snapshot's layers, upper and work directories at dir. The lower directories come topmost first.
//
// The options of mount(2) have room for one page, about 40 layers. Kernels since 6.7 take the layers one by one; on older
// ones they are named by short links relative to the working directory, which is enough for all 500.
func mountOverlay(snapshot string, lower []string, dir string) error {
	if err := forgetVolatile(snapshot); err != nil {
		return err
	}
	failure := mountNew(snapshot, lower, dir)
	if errors.Is(failure, unix.ENOSYS) || errors.Is(failure, unix.EINVAL) {
		if err := mountOld(snapshot, lower, dir); err != nil {
			return errors.Join(failure, err)
		}
		return nil
	}
	return failure
}

// forgetVolatile removes the mark of an earlier volatile mount, by which the kernel asks whether somebody has made up for
// what it did not write.
func forgetVolatile(snapshot string) error {
	if err := trees.Remove(filepath.Join(snapshot, "work", "work", "incompat")); err != nil {
		return fmt.Errorf("mount a writable layer again: %w", err)
	}
	return nil
}

// mountNew uses fsopen(2) and its family.
func mountNew(snapshot string, lower []string, dir string) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open overlayfs: %w", err)
	}
	defer unix.Close(fs)
	// An index would tie the upper directory to these very lower ones; not every kernel has the option.
	_ = unix.FsconfigSetString(fs, "index", "off")
	// Containers need not wait for the disk, nor all others when one goes: to unmount an overlay is otherwise to write out
	// all of the file system that its upper directory is on. No container lives on when the machine goes down, so nobody
	// would ever look for what did not get to the disk. Kernels since 5.10 have it.
	_ = unix.FsconfigSetFlag(fs, "volatile")
	options := make([][2]string, 0, len(lower)+3)
	for _, layer := range lower {
		options = append(options, [2]string{"lowerdir+", layer})
	}
	options = append(options, [2]string{"upperdir", filepath.Join(snapshot, "upper")}, [2]string{"workdir", filepath.Join(snapshot, "work")},
		[2]string{"source", "overlay"})
	for _, option := range options {
		if err := unix.FsconfigSetString(fs, option[0], option[1]); err != nil { // EINVAL too for more than 256 characters
			return fmt.Errorf("set %s to %s: %w%s", option[0], option[1], err, kernelMessages(fs))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("make the overlay: %w%s", err, kernelMessages(fs))
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make the overlay's mount: %w", err)
	}
	defer unix.Close(mount)
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at %s: %w", dir, err)
	}
	return nil
}

// kernelMessages reads what the kernel says beyond the error number.
func kernelMessages(fs int) string {
	var all strings.Builder
	buffer := make([]byte, 1024)
	for range 8 {
		n, err := unix.Read(fs, buffer)
		if err != nil || n <= 0 {
			break
		}
		fmt.Fprintf(&all, " (%s)", strings.TrimSpace(string(buffer[:n])))
	}
	return all.String()
}

// mountOld uses mount(2) on a thread of its own, which has its own working directory and ends with it.
func mountOld(snapshot string, lower []string, dir string) error {
	links := filepath.Join(snapshot, "lower")
	if err := errors.Join(trees.Remove(links), os.Mkdir(links, 0o700)); err != nil {
		return err
	}
	names := make([]string, len(lower))
	for i, layer := range lower {
		names[i] = strconv.Itoa(i)
		if err := os.Symlink(layer, filepath.Join(links, names[i])); err != nil {
			return err
		}
	}
	options := "lowerdir=" + strings.Join(names, ":") + ",upperdir=../upper,workdir=../work"
	result := make(chan error)
	namespaces.OnThread(func() {
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("give a thread its own directory: %w", err)
			}
			if err := unix.Chdir(links); err != nil {
				return err
			}
			err := unix.Mount("overlay", dir, "overlay", 0, options+",index=off")
			if errors.Is(err, unix.EINVAL) {
				err = unix.Mount("overlay", dir, "overlay", 0, options)
			}
			if err != nil {
				return fmt.Errorf("mount overlay of %d layers at %s: %w", len(lower), dir, err)
			}
			return nil
		}()
	})
	return <-result
}

// isOverlay tells whether an overlay is mounted at dir, and not only somewhere above it.
func isOverlay(dir string) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	if fs.Type != unix.OVERLAYFS_SUPER_MAGIC {
		return false, nil
	}
	var at, above unix.Stat_t
	if err := unix.Stat(dir, &at); err != nil {
		return false, err
	}
	if err := unix.Stat(filepath.Dir(dir), &above); err != nil {
		return false, err
	}
	return at.Dev != above.Dev, nil
}
