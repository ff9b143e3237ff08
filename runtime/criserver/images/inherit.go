package images

import (
	"errors"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// inheritAll gives directories that a layer only implies (an entry for tmp/file, none for tmp) the owner and mode that
// the layers below have for them. In overlayfs the topmost layer's attributes count: /tmp would else become 0755.
func (s *Store) inheritAll(dir string, implied []string, parents []layerSpec) error {
	t, err := openTree(dir)
	if err != nil {
		return err
	}
	defer t.close()
	below := make([]*tree, 0, len(parents))
	defer func() {
		for _, b := range below {
			b.close()
		}
	}()
	if len(implied) == 0 {
		return nil
	}
	for _, parent := range slices.Backward(parents) { // the topmost first
		b, err := openTree(s.layerFS(parent.chain))
		if err != nil {
			return err
		}
		below = append(below, b)
	}
	for _, name := range implied {
		if err := t.inherit(name, below); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) inherit(name string, below []*tree) error {
	fd, err := t.open(name)
	if err != nil {
		return nil //nolint:nilerr // a later entry replaced it
	}
	defer unix.Close(fd)
	if isOpaque(fd) {
		return nil
	}
	for _, b := range below {
		stat, found, err := b.lookup(name)
		if err != nil {
			return nil //nolint:nilerr // what is further below is hidden: the directory is new
		}
		if !found {
			continue
		}
		if err := unix.Fchown(fd, int(stat.Uid), int(stat.Gid)); err != nil {
			return err
		}
		if err := unix.Fchmod(fd, stat.Mode&0o7777); err != nil {
			return err
		}
		return unix.UtimesNanoAt(fd, ".", []unix.Timespec{stat.Mtim, stat.Mtim}, 0)
	}
	return nil
}

var errHidden = errors.New("a layer above has something else there")

// lookup finds a directory of a layer. The error means that layers further below are hidden.
func (t *tree) lookup(name string) (stat unix.Stat_t, found bool, err error) {
	fd, err := t.open(name)
	if errors.Is(err, unix.ENOENT) {
		return stat, false, t.hides(path.Dir(name))
	} else if err != nil {
		return stat, false, errHidden
	}
	defer unix.Close(fd)
	return stat, true, unix.Fstat(fd, &stat)
}

// hides tells whether a directory of this layer or one above it is opaque.
func (t *tree) hides(name string) error {
	for ; ; name = path.Dir(name) {
		fd, err := t.open(name)
		if err == nil {
			opaque := isOpaque(fd)
			unix.Close(fd)
			if opaque {
				return errHidden
			}
		} else if !errors.Is(err, unix.ENOENT) {
			return errHidden
		}
		if name == "." {
			return nil
		}
	}
}

func isOpaque(dir int) bool {
	value := make([]byte, 8)
	n, err := unix.Fgetxattr(dir, opaqueXattr, value)
	return err == nil && n == 1 && value[0] == 'y'
}
