package images

import (
	"errors"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

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
func (t *tree) inherit(names []string, dir string) ([]string, error) {
	below, err := openTree(dir)
	if err != nil {
		return nil, err
	}
	defer below.close()
	var left []string
	for _, name := range names {
		fd, err := t.open(name)
		if err != nil {
			continue // a later entry replaced it
		}
		stat, found, err := below.lookup(name)
		switch {
		case err != nil || isOpaque(fd): // what is further below is hidden: the directory is new
		case !found:
			left = append(left, name)
		default:
			if err := copyAttributes(fd, stat); err != nil {
				unix.Close(fd)
				return nil, err
			}
		}
		unix.Close(fd)
	}
	return left, nil
}

func copyAttributes(fd int, from unix.Stat_t) error {
	return errors.Join(unix.Fchown(fd, int(from.Uid), int(from.Gid)), unix.Fchmod(fd, from.Mode&0o7777),
		unix.UtimesNanoAt(fd, ".", []unix.Timespec{from.Mtim, from.Mtim}, 0))
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
