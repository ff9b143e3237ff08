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
		if stat, hidden := below.look(name); stat != nil && !isOpaque(fd) {
			err = errors.Join(unix.Fchown(fd, int(stat.Uid), int(stat.Gid)), unix.Fchmod(fd, stat.Mode&0o7777),
				unix.UtimesNanoAt(fd, ".", []unix.Timespec{stat.Mtim, stat.Mtim}, 0))
		} else if !hidden && !isOpaque(fd) {
			left = append(left, name)
		}
		unix.Close(fd)
		if err != nil {
			return nil, err
		}
	}
	return left, nil
}

// look finds a directory of a layer. If the layer has none of that name, hidden tells whether it hides those of the layers
// further below: by an opaque directory above it, or by something else in its place or above it.
func (t *tree) look(name string) (found *unix.Stat_t, hidden bool) {
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
