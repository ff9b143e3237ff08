package images

import (
	"archive/tar"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/trees"
)

// tree writes below one directory and nowhere else. Symbolic links above an entry lead where they would in a container that
// has only this layer, also if nothing is there yet. Then openat2 opens the parent directory and follows none, and what is
// done is done to one name in it, without following links.
type tree struct {
	dir     *os.File
	entries int // of the tar, and directories that they imply

	// When the directories were modified, as the layer says, by their names without links. It is set last, since each file
	// made in a directory changes it. It is zero for directories that no entry describes and that were made because
	// something is in them.
	dirs      map[string]time.Time
	nameBytes int // of memory that the names in dirs take

	// The parent opened last: the entries of a layer come by directory.
	parentName string // as in the entry
	parentDir  string // without links
	parent     int    // -1 for none
}

func openTree(dir string) (*tree, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return &tree{dir: f, dirs: map[string]time.Time{".": {}}, parent: -1}, nil
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

func (t *tree) addDir(name string, modified time.Time) {
	t.dirs[name] = modified
	t.nameBytes += nameCost + len(name)
}

// open opens a directory, if no part of its name is a link.
func (t *tree) open(name string) (fd int, err error) {
	return unix.Openat2(int(t.dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// follow opens the directory that name means and makes it if it is missing. It returns its name without links.
func (t *tree) follow(name string) (fd int, dir string, err error) {
	if fd, err = t.open(name); err == nil {
		return fd, name, nil
	}
	path, err := securejoin.SecureJoin(t.dir.Name(), name)
	if err == nil {
		dir, err = filepath.Rel(t.dir.Name(), path)
	}
	if err != nil {
		return -1, "", fmt.Errorf("follow the symbolic links of %q: %w", shorten(name), err)
	}
	fd, err = t.openOrMake(dir)
	return fd, dir, err
}

// openOrMake opens a directory and makes it and those above it where they are missing.
func (t *tree) openOrMake(name string) (int, error) {
	fd, err := t.open(name)
	if err == nil || name == "." || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
		return fd, err
	}
	if strings.HasPrefix(path.Base(name), whiteoutPrefix) { // also where a symbolic link leads to it
		return -1, errors.New("a whiteout is no directory")
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
	t.entries++
	t.addDir(name, time.Time{})
	return t.open(name)
}

// mkdirIn makes a directory; in place of a whiteout one that hides those below.
func mkdirIn(parent int, base string) error {
	stat := lstatIn(parent, base)
	whiteout := stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == 0
	if whiteout {
		if err := unix.Unlinkat(parent, base, 0); err != nil {
			return err
		}
	}
	if err := unix.Mkdirat(parent, base, 0o755); err != nil {
		return err
	}
	err := unix.Fchmodat(parent, base, 0o755, 0) // whatever the umask is
	if err == nil && whiteout {
		err = unix.Lsetxattr(procPath(parent, base), opaqueXattr, []byte("y"), 0)
	}
	return err
}

// procPath is for calls that take no directory. base has one component, so the kernel follows nothing but the magic
// link to the directory.
func procPath(dir int, base string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, base) }

// lstatIn returns zeros if nothing is there.
func lstatIn(parent int, base string) (stat unix.Stat_t) {
	_ = unix.Fstatat(parent, base, &stat, unix.AT_SYMLINK_NOFOLLOW)
	return stat
}

func isDirectory(parent int, base string) bool {
	return lstatIn(parent, base).Mode&unix.S_IFMT == unix.S_IFDIR
}

// openParent opens the directory that name is in, which stays open until the next call.
func (t *tree) openParent(name string) (parent int, base string, err error) {
	dir := path.Dir(name)
	if t.parent >= 0 && t.parentName == dir {
		return t.parent, path.Base(name), nil
	}
	t.forget()
	if t.parent, t.parentDir, err = t.follow(dir); err != nil {
		t.parent = -1
		return -1, "", err
	}
	t.parentName = dir
	return t.parent, path.Base(name), nil
}

// replace runs make, and once more after it has removed what was in the way.
func (t *tree) replace(name string, makeIt func(parent int, base string) error) error {
	parent, base, err := t.openParent(name)
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
func (t *tree) mkdir(name string, modified time.Time) error {
	if name == "." {
		t.addDir(name, modified)
		return nil
	}
	return t.replace(name, func(parent int, base string) error {
		err := mkdirIn(parent, base)
		if errors.Is(err, unix.EEXIST) && isDirectory(parent, base) {
			err = nil
		}
		if err == nil {
			t.addDir(path.Join(t.parentDir, base), modified)
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

// link gives a file of this layer another name. A file that only a layer below has cannot get one.
func (t *tree) link(target, name string) error {
	if target == name {
		return errors.New("it is the link itself")
	}
	from, _, err := t.follow(path.Dir(target))
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
	parent, base, err := t.openParent(name)
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
	fd, _, err := t.follow(dir)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fsetxattr(fd, opaqueXattr, []byte("y"), 0)
}

// set gives a file the attributes of its header that a file system can hold: first the owner, since a change of it drops
// setuid bits and capabilities.
func (t *tree) set(name string, header *tar.Header) error {
	const maxID = 1<<32 - 2 // the one above means "leave it" to chown
	if header.Uid < 0 || header.Uid > maxID || header.Gid < 0 || header.Gid > maxID {
		return fmt.Errorf("owner %d:%d", header.Uid, header.Gid)
	}
	parent, base, err := t.openParent(name)
	if err != nil {
		return err
	}
	if err := unix.Fchownat(parent, base, header.Uid, header.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if header.Typeflag != tar.TypeSymlink { // which has no mode
		if err := unix.Fchmodat(parent, base, uint32(header.Mode&0o7777), 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	for key, value := range header.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || !keepXattr(name) {
			continue
		}
		err := unix.Lsetxattr(procPath(parent, base), name, []byte(value), 0)
		if err != nil && (name == "security.capability" || !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM)) {
			return fmt.Errorf("set %s: %w", shorten(name), err)
		}
	}
	return setTime(parent, base, header.ModTime)
}

// finishDirs sets the times of directories, and returns those that no entry describes.
func (t *tree) finishDirs() (implied []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(t.dirs)) {
		if t.dirs[name].IsZero() {
			implied = append(implied, name)
			continue
		}
		dir, err := t.open(name)
		if err != nil {
			continue // a later entry replaced it or a directory above it
		}
		err = setTime(dir, ".", t.dirs[name])
		unix.Close(dir)
		if err != nil {
			return nil, fmt.Errorf("directory %q: %w", shorten(name), err)
		}
	}
	return implied, nil
}

func setTime(parent int, base string, at time.Time) error {
	spec, err := unix.TimeToTimespec(at)
	if err != nil || at.IsZero() {
		spec = unix.Timespec{} // a time no file system has
	}
	if err := unix.UtimesNanoAt(parent, base, []unix.Timespec{spec, spec}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// inheritAll gives directories that a layer only implies (an entry for tmp/file, none for tmp) the owner and mode that
// the layers below have for them. In overlayfs the topmost layer's attributes count: /tmp would else become 0755.
func (s *Store) inheritAll(dir string, implied []string, parents []string) error {
	t, err := openTree(dir)
	if err != nil {
		return err
	}
	defer t.close()
	for _, parent := range slices.Backward(parents) { // the topmost first
		if len(implied) == 0 {
			break
		}
		if implied, err = t.inherit(implied, s.layerFS(parent)); err != nil {
			return err
		}
	}
	return nil
}

// inherit takes what one layer has, and returns the names that are left for those further below.
func (t *tree) inherit(names []string, dir string) (left []string, err error) {
	below, err := openTree(dir)
	if err != nil {
		return nil, err
	}
	defer below.close()
	for _, name := range names {
		fd, err := t.open(name)
		if err != nil {
			continue // a later entry replaced it
		}
		if stat, hidden := below.findDir(name); stat != nil {
			err = errors.Join(unix.Fchown(fd, int(stat.Uid), int(stat.Gid)), unix.Fchmod(fd, stat.Mode&0o7777),
				unix.UtimesNanoAt(fd, ".", []unix.Timespec{stat.Mtim, stat.Mtim}, 0))
		} else if !hidden {
			left = append(left, name)
		}
		unix.Close(fd)
		if err != nil {
			return nil, err
		}
	}
	return left, nil
}

// findDir finds a directory of a layer. If the layer has none of that name, hidden tells whether it hides those of the layers
// further below: by an opaque directory above it, or by something else in its place or above it.
func (t *tree) findDir(name string) (found *unix.Stat_t, hidden bool) {
	for at := name; ; at = path.Dir(at) {
		var stat unix.Stat_t
		fd, err := t.open(at)
		if err == nil {
			err = unix.Fstat(fd, &stat)
			hidden = isOpaque(fd)
			unix.Close(fd)
		}
		switch {
		case err == nil && at == name:
			return &stat, false
		case hidden || err != nil && !errors.Is(err, unix.ENOENT):
			return nil, true
		case at == ".":
			return nil, false
		}
	}
}

func isOpaque(dir int) bool {
	value := make([]byte, 8)
	n, err := unix.Fgetxattr(dir, opaqueXattr, value)
	return err == nil && n == 1 && value[0] == 'y'
}
