package images

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How layers say that something of a layer below is gone, and how overlayfs does.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // aufs's own files, which mean nothing here, except one:
	whiteoutOpaque = ".wh..wh..opq"

	opaqueXattr = "trusted.overlay.opaque"
	xattrRecord = "SCHILY.xattr." // of PAX headers
)

// unpacker turns one layer's tar into a directory that overlayfs takes as a lower one.
type unpacker struct {
	tree    *tree
	limits  Limits
	buffer  []byte
	entries int
	bytes   uint64 // of files, in whole blocks, without holes
	size    int64  // of files, as the headers say
	inodes  uint64
	times   map[string]time.Time // of directories, set when nothing is added to them any more
	names   int                  // bytes that the names in times take
	budget  *budget
}

const blockSize = 4096

func newUnpacker(dir string, limits Limits, b *budget) (*unpacker, error) {
	t, err := openTree(dir)
	if err != nil {
		return nil, err
	}
	return &unpacker{tree: t, limits: limits, budget: b, buffer: make([]byte, 128<<10), times: map[string]time.Time{}}, nil
}

func (u *unpacker) close() { u.tree.close() }

// impliedDirs are directories that no entry describes, only entries below them.
func (u *unpacker) impliedDirs() []string { return slices.Sorted(maps.Keys(u.tree.implied)) }

// unpack reads a tar to its end. Nothing of it can have an effect outside the directory: see tree.
func (u *unpacker) unpack(r io.Reader) error {
	reader := tar.NewReader(r)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return u.setTimes()
		}
		if err != nil {
			return fmt.Errorf("read tar after %d entries: %w", u.entries, err)
		}
		u.entries++
		if err := u.entry(header, reader); err != nil {
			return fmt.Errorf("entry %q: %w", shorten(header.Name), err)
		}
		if u.entries+len(u.tree.implied) > u.limits.LayerEntries {
			return fmt.Errorf("more than %d entries", u.limits.LayerEntries)
		}
		if u.names+u.tree.names > u.limits.NameBytes {
			return fmt.Errorf("the names of the directories take more than %d bytes of memory", u.limits.NameBytes)
		}
	}
}

func (u *unpacker) entry(header *tar.Header, content io.Reader) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(header.Name)
	if err != nil {
		return err
	}
	dir, base := path.Split(name)
	switch {
	case strings.Contains("/"+dir, "/"+whiteoutMeta):
		return nil
	case strings.Contains("/"+dir, "/"+whiteoutPrefix):
		return errors.New("a whiteout is no directory")
	case base == whiteoutOpaque:
		return u.tree.makeOpaque(path.Clean(dir))
	case strings.HasPrefix(base, whiteoutMeta):
		return nil
	case strings.HasPrefix(base, whiteoutPrefix):
		return u.whiteout(dir, strings.TrimPrefix(base, whiteoutPrefix))
	}
	if err := u.budget.spend(blockSize); err != nil { // about what an inode and a name take
		return err
	}
	if err := u.create(name, header, content); err != nil {
		return err
	}
	delete(u.tree.implied, name)
	delete(u.times, name)
	if header.Typeflag == tar.TypeDir {
		u.times[name] = header.ModTime
		u.names += nameCost + len(name)
	}
	return nil
}

// whiteout hides what layers below have by this name. What this layer has by it stays, before or after in the tar.
func (u *unpacker) whiteout(dir, base string) error {
	if base == "" || base == "." || base == ".." {
		return errors.New("whiteout of nothing")
	}
	u.inodes++
	return u.tree.whiteout(path.Join(dir, base))
}

// create makes what the header says, in place of what has the name.
func (u *unpacker) create(name string, header *tar.Header, content io.Reader) error {
	attributes, err := readAttributes(header)
	if err != nil {
		return err
	}
	if name == "." && header.Typeflag != tar.TypeDir {
		return errors.New("the root of a layer must be a directory")
	}
	switch header.Typeflag {
	case tar.TypeDir:
		err = u.tree.mkdir(name)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		err = u.file(name, header, content)
	case tar.TypeSymlink:
		err = u.symlink(name, header.Linkname)
	case tar.TypeLink:
		return u.link(name, header.Linkname) // attributes are the other name's
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		err = u.node(name, header)
	default:
		err = fmt.Errorf("entries of type %q are not supported", header.Typeflag)
	}
	if err != nil {
		return err
	}
	u.inodes++
	return u.tree.set(name, attributes)
}

func (u *unpacker) file(name string, header *tar.Header, content io.Reader) error {
	if header.Size < 0 || header.Size > u.limits.UnpackedBytes-u.size {
		return fmt.Errorf("files of more than %d bytes", u.limits.UnpackedBytes)
	}
	u.size += header.Size
	f, err := u.tree.createFile(name)
	if err != nil {
		return err
	}
	w := &fileWriter{file: f, budget: u.budget}
	_, err = io.CopyBuffer(w, content, u.buffer)
	if err == nil {
		err = w.finish()
	}
	u.bytes += (uint64(w.written) + blockSize - 1) / blockSize * blockSize
	return errors.Join(err, f.Close())
}

// symlink keeps any target: it means something in the container only, and nothing here follows it.
func (u *unpacker) symlink(name, target string) error {
	if target == "" || len(target) >= unix.PathMax || strings.ContainsRune(target, 0) {
		return fmt.Errorf("symbolic link to %q", shorten(target))
	}
	return u.tree.symlink(target, name)
}

func (u *unpacker) link(name, target string) error {
	target, err := cleanName(target)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	if target == name {
		return errors.New("hard link to itself")
	}
	if err := u.tree.link(target, name); err != nil {
		return fmt.Errorf("hard link to %q: %w", shorten(target), err)
	}
	return nil
}

func (u *unpacker) node(name string, header *tar.Header) error {
	if header.Devmajor < 0 || header.Devmajor >= 1<<12 || header.Devminor < 0 || header.Devminor >= 1<<20 {
		return fmt.Errorf("device %d:%d does not exist", header.Devmajor, header.Devminor)
	}
	kinds := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}
	device := uint64(0)
	if header.Typeflag != tar.TypeFifo {
		device = unix.Mkdev(uint32(header.Devmajor), uint32(header.Devminor))
	}
	return u.tree.mknod(name, kinds[header.Typeflag], device)
}

// setTimes comes last, as each file made in a directory changes it.
func (u *unpacker) setTimes() error {
	for name, at := range u.times {
		if err := u.tree.setTime(name, at); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("set the time of %q: %w", shorten(name), err)
		}
	}
	return nil
}

// readAttributes takes of a header what a file system can hold.
func readAttributes(header *tar.Header) (attributes, error) {
	const maxID = 1<<32 - 2 // the one above means "leave it" to chown
	if header.Uid < 0 || header.Uid > maxID || header.Gid < 0 || header.Gid > maxID {
		return attributes{}, fmt.Errorf("owner %d:%d", header.Uid, header.Gid)
	}
	a := attributes{uid: header.Uid, gid: header.Gid, mode: uint32(header.Mode & 0o7777), modified: header.ModTime,
		symlink: header.Typeflag == tar.TypeSymlink}
	for key, value := range header.PAXRecords {
		if name, ok := strings.CutPrefix(key, xattrRecord); ok && keepXattr(name) {
			if a.xattrs == nil {
				a.xattrs = map[string]string{}
			}
			a.xattrs[name] = value
		}
	}
	return a, nil
}

// keepXattr leaves out everything that speaks to the kernel rather than to the container: above all trusted.overlay.*,
// with which a layer could show other files of this machine, and user.overlay.*, which is the same for rootless mounts.
func keepXattr(name string) bool {
	switch name {
	case "security.capability", "security.ima":
		return true
	}
	return strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// cleanName makes a path relative to the layer's root. "/etc" is the container's; a path with ".." is refused, even
// where it would stay inside: no tool writes such, so someone means something by it.
func cleanName(name string) (string, error) {
	if len(name) >= unix.PathMax {
		return "", fmt.Errorf("name of %d characters", len(name))
	}
	if strings.ContainsRune(name, 0) {
		return "", errors.New("name with a zero byte")
	}
	if slices.Contains(strings.Split(name, "/"), "..") {
		return "", errors.New(`name with ".."`)
	}
	return path.Clean("./" + strings.TrimLeft(name, "/")), nil
}

// shorten keeps error messages readable.
func shorten(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}
