package images

import (
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/trees"
)

// tree writes below one directory and nowhere else. Each parent directory is opened by openat2, which follows no
// symbolic link and does not leave the directory; what is then done is done to one name in it, without following either.
type tree struct {
	dir     *os.File
	implied map[string]bool // directories made because something is in them
	names   int             // bytes that the names in implied take

	// The parent opened last: the entries of a layer come by directory.
	parentName string
	parent     int // -1 for none
}

// attributes of a file, in the order in which they must be set.
type attributes struct {
	uid, gid int
	mode     uint32 // with setuid, setgid and sticky bits
	symlink  bool   // has no mode
	xattrs   map[string]string
	modified time.Time
}

func openTree(dir string) (*tree, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return &tree{dir: f, implied: map[string]bool{".": true}, parent: -1}, nil
}

func (t *tree) close() {
	t.forget()
	t.dir.Close()
}

func (t *tree) forget() {
	if t.parent >= 0 {
		unix.Close(t.parent)
	}
	t.parent = -1
}

// open opens a directory.
func (t *tree) open(name string) (int, error) {
	return unix.Openat2(int(t.dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// openOrMake opens a directory and makes it and those above it where they are missing.
func (t *tree) openOrMake(name string) (int, error) {
	fd, err := t.open(name)
	if err == nil || name == "." || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
		if errors.Is(err, unix.ELOOP) {
			err = fmt.Errorf("%q is or is below a symbolic link: %w", shorten(name), err)
		}
		return fd, err
	}
	above, err := t.openOrMake(path.Dir(name))
	if err != nil {
		return -1, err
	}
	defer unix.Close(above)
	if err := mkdirIn(above, path.Base(name)); errors.Is(err, unix.EEXIST) {
		return -1, fmt.Errorf("%q is not a directory", shorten(name))
	} else if err != nil {
		return -1, fmt.Errorf("make directory %q: %w", shorten(name), err)
	}
	t.implied[name] = true
	t.names += nameCost + len(name)
	return t.open(name)
}

// mkdirIn makes a directory; in place of a whiteout one that hides those below.
func mkdirIn(parent int, base string) error {
	err := unix.Mkdirat(parent, base, 0o755)
	whiteout := errors.Is(err, unix.EEXIST) && isWhiteout(parent, base)
	if whiteout {
		if err = unix.Unlinkat(parent, base, 0); err == nil {
			err = unix.Mkdirat(parent, base, 0o755)
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Fchmodat(parent, base, 0o755, 0); err != nil { // whatever the umask is
		return err
	}
	if whiteout {
		return unix.Lsetxattr(procPath(parent, base), opaqueXattr, []byte("y"), 0)
	}
	return nil
}

// procPath is for calls that take no directory. base has one component, so the kernel follows nothing but the magic
// link to the directory.
func procPath(dir int, base string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, base) }

func isWhiteout(parent int, base string) bool {
	var stat unix.Stat_t
	err := unix.Fstatat(parent, base, &stat, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == 0
}

func isDirectory(parent int, base string) bool {
	var stat unix.Stat_t
	err := unix.Fstatat(parent, base, &stat, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR
}

// in returns the directory that name is in, which stays open until the next call.
func (t *tree) in(name string) (parent int, base string, err error) {
	dir := path.Dir(name)
	if t.parent >= 0 && t.parentName == dir {
		return t.parent, path.Base(name), nil
	}
	t.forget()
	fd, err := t.openOrMake(dir)
	if err != nil {
		return -1, "", err
	}
	t.parent, t.parentName = fd, dir
	return fd, path.Base(name), nil
}

// replace runs make, and once more after it has removed what was in the way.
func (t *tree) replace(name string, makeIt func(parent int, base string) error) error {
	parent, base, err := t.in(name)
	if err != nil {
		return err
	}
	if err = makeIt(parent, base); !errors.Is(err, unix.EEXIST) {
		return err
	}
	err = unix.Unlinkat(parent, base, 0)
	if errors.Is(err, unix.EISDIR) {
		err = trees.RemoveAt(parent, base)
	}
	if err != nil {
		return fmt.Errorf("remove the earlier entry: %w", err)
	}
	return makeIt(parent, base)
}

// mkdir keeps the directory that is there, with what is in it.
func (t *tree) mkdir(name string) error {
	if name == "." {
		return nil
	}
	return t.replace(name, func(parent int, base string) error {
		err := mkdirIn(parent, base)
		if errors.Is(err, unix.EEXIST) && isDirectory(parent, base) {
			return nil
		}
		return err
	})
}

func (t *tree) createFile(name string) (*os.File, error) {
	var f *os.File
	err := t.replace(name, func(parent int, base string) error {
		fd, err := unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == nil {
			f = os.NewFile(uintptr(fd), name)
		}
		return err
	})
	return f, err
}

func (t *tree) symlink(target, name string) error {
	return t.replace(name, func(parent int, base string) error { return unix.Symlinkat(target, parent, base) })
}

func (t *tree) mknod(name string, kind uint32, device uint64) error {
	return t.replace(name, func(parent int, base string) error { return unix.Mknodat(parent, base, kind|0o600, int(device)) })
}

// link gives a file of this layer another name. A file that only a layer below has cannot get one.
func (t *tree) link(target, name string) error {
	from, err := t.open(path.Dir(target))
	if err != nil {
		return err
	}
	defer unix.Close(from)
	if isDirectory(from, path.Base(target)) {
		return errors.New("it is a directory")
	}
	return t.replace(name, func(parent int, base string) error {
		return unix.Linkat(from, path.Base(target), parent, base, 0)
	})
}

// whiteout hides name in the layers below: as overlayfs does where this layer has nothing or a directory by that name;
// any other file of this layer hides them by itself.
func (t *tree) whiteout(name string) error {
	parent, base, err := t.in(name)
	if err != nil {
		return err
	}
	err = unix.Mknodat(parent, base, unix.S_IFCHR, 0)
	switch {
	case errors.Is(err, unix.EEXIST) && isDirectory(parent, base):
		return t.makeOpaque(name)
	case errors.Is(err, unix.EEXIST):
		return nil
	}
	return err
}

func (t *tree) makeOpaque(dir string) error {
	fd, err := t.openOrMake(dir)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fsetxattr(fd, opaqueXattr, []byte("y"), 0)
}

// set gives a file its attributes: first the owner, since a change of it drops setuid bits and capabilities.
func (t *tree) set(name string, a attributes) error {
	parent, base, err := t.in(name)
	if err != nil {
		return err
	}
	if err := unix.Fchownat(parent, base, a.uid, a.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if !a.symlink {
		if err := unix.Fchmodat(parent, base, a.mode, 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	for name, value := range a.xattrs {
		err := unix.Lsetxattr(procPath(parent, base), name, []byte(value), 0)
		if err != nil && (name == "security.capability" || !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM)) {
			return fmt.Errorf("set %s: %w", shorten(name), err)
		}
	}
	return setTimeIn(parent, base, a.modified)
}

func (t *tree) setTime(name string, at time.Time) error {
	if name == "." {
		return setTimeIn(int(t.dir.Fd()), ".", at)
	}
	parent, err := t.open(path.Dir(name))
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	return setTimeIn(parent, path.Base(name), at)
}

func setTimeIn(parent int, base string, at time.Time) error {
	spec, err := unix.TimeToTimespec(at)
	if err != nil || at.IsZero() {
		spec = unix.Timespec{} // a time no file system has
	}
	if err := unix.UtimesNanoAt(parent, base, []unix.Timespec{spec, spec}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}
