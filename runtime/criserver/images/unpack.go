package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/bounded"
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
	tree   *tree
	lowest bool // there is no layer below
	limits Limits
	budget *budget
	buffer []byte
	bytes  uint64 // of files, in whole blocks, without holes
	size   int64  // of files, as the headers say
	inodes uint64
}

const blockSize = 4096

var zeros [64 << 10]byte

// unpackTar unpacks a tar, compressed or not, into a directory. All of the uncompressed tar is also written to a hasher:
// what follows its end, too. It returns what the files take, and the directories that no entry describes, only entries
// below them.
func unpackTar(ctx context.Context, content io.Reader, dir string, limits Limits, b *budget, hasher io.Writer, lowest bool) (layer, []string, error) {
	stream, err := decompress(&contextReader{ctx, content})
	if err != nil {
		return layer{}, nil, err
	}
	defer stream.Close()
	t, err := openTree(dir)
	if err != nil {
		return layer{}, nil, err
	}
	defer t.close()
	u := &unpacker{tree: t, lowest: lowest, limits: limits, budget: b, buffer: make([]byte, len(zeros))}
	limited := bounded.NewReader(io.TeeReader(stream, hasher), limits.UnpackedBytes)
	if err := u.unpack(limited); err != nil {
		return layer{}, nil, err
	}
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return layer{}, nil, err
	}
	implied, err := t.finishDirs()
	return layer{Bytes: u.bytes, Inodes: u.inodes + uint64(len(implied)), Opaque: isOpaque(int(t.dir.Fd()))}, implied, err
}

// unpack reads a tar to its end. Nothing of it can have an effect outside the directory: see tree.
func (u *unpacker) unpack(r io.Reader) error {
	reader := tar.NewReader(r)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read tar after %d entries: %w", u.tree.entries, err)
		}
		u.tree.entries++
		if err := u.entry(header, reader); err != nil {
			return fmt.Errorf("entry %q: %w", shorten(header.Name), err)
		}
		if u.tree.entries > u.limits.LayerEntries {
			return fmt.Errorf("more than %d entries", u.limits.LayerEntries)
		}
		if u.tree.nameBytes > u.limits.NameBytes {
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
	return u.create(name, header, content)
}

// whiteout hides what layers below have by this name. What this layer itself has by the name stays, whether it comes before
// or after the whiteout in the tar. The lowest layer has nothing to hide, and overlayfs shows the whiteouts of directories that
// no other layer has.
func (u *unpacker) whiteout(dir, base string) error {
	if base == "" || base == "." || base == ".." {
		return errors.New("whiteout of nothing")
	}
	name := path.Join(dir, base)
	if u.lowest {
		_, _, err := u.tree.openParent(name)
		return err
	}
	u.inodes++
	return u.tree.whiteout(name)
}

// create makes what the header says, in place of what has the name.
func (u *unpacker) create(name string, header *tar.Header, content io.Reader) (err error) {
	if name == "." && header.Typeflag != tar.TypeDir {
		return errors.New("the root of a layer must be a directory")
	}
	switch header.Typeflag {
	case tar.TypeDir:
		err = u.tree.mkdir(name, header.ModTime)
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
	return u.tree.set(name, header)
}

// file writes a file, with a hole for each piece of it that is all zeros.
func (u *unpacker) file(name string, header *tar.Header, content io.Reader) (err error) {
	if header.Size < 0 || header.Size > u.limits.UnpackedBytes-u.size {
		return fmt.Errorf("files of more than %d bytes", u.limits.UnpackedBytes)
	}
	u.size += header.Size
	f, err := u.tree.createFile(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for at := int64(0); at < header.Size; {
		piece := u.buffer[:min(header.Size-at, int64(len(u.buffer)))]
		if _, err := io.ReadFull(content, piece); err != nil {
			return err
		}
		at += int64(len(piece))
		if bytes.Equal(piece, zeros[:len(piece)]) {
			err = f.Truncate(at)
		} else if err = u.budget.spend(int64(len(piece))); err == nil {
			u.bytes += (uint64(len(piece)) + blockSize - 1) / blockSize * blockSize
			_, err = f.WriteAt(piece, at-int64(len(piece)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// symlink keeps any target: it means something in the container only, and nothing here follows it.
func (u *unpacker) symlink(name, target string) error {
	if target == "" || len(target) >= unix.PathMax || strings.ContainsRune(target, 0) {
		return fmt.Errorf("symbolic link to %q", shorten(target))
	}
	return u.tree.replace(name, func(parent int, base string) error { return unix.Symlinkat(target, parent, base) })
}

func (u *unpacker) link(name, target string) error {
	cleaned, err := cleanName(target)
	if err == nil {
		err = u.tree.link(cleaned, name)
	}
	if err != nil {
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
	return u.tree.replace(name, func(parent int, base string) error {
		return unix.Mknodat(parent, base, kinds[header.Typeflag]|0o600, int(device))
	})
}

// keepXattr leaves out everything that speaks to the kernel rather than to the container: above all trusted.overlay.*,
// with which a layer could show other files of this machine, and user.overlay.*, which is the same for rootless mounts.
func keepXattr(name string) bool {
	return name == "security.capability" || name == "security.ima" || strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// cleanName makes a path relative to the layer's root: "/etc" is the container's. A path with ".." is refused, also one that
// stays inside: no tool writes such paths, so that it is likely to be an attack.
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

// checkEvery is how much is written between two looks at how much is free.
const checkEvery = 16 << 20

// nameCost is about what a map takes for a name besides the name.
const nameCost = 128

// budget is what the files of one image may take of the disk.
type budget struct {
	store *Store
	spent atomic.Int64
	// checked is set once the free space was looked at.
	checked atomic.Bool
}

func (s *Store) newBudget() *budget { return &budget{store: s} }

// count is for what takes space already.
func (b *budget) count(n int64) error {
	if limit := b.store.options.Limits.ImageBytes; b.spent.Add(n) > limit {
		return fmt.Errorf("the image's files take more than %d bytes", limit)
	}
	return nil
}

// spend is called before something is written.
func (b *budget) spend(n int64) error {
	if err := b.count(n); err != nil {
		return err
	}
	now := b.spent.Load()
	if before := now - n; b.checked.CompareAndSwap(false, true) || before/checkEvery != now/checkEvery {
		return b.store.checkFree(n)
	}
	return nil
}

// checkFree tells whether enough of the file system remains free for others when so many bytes are taken.
func (s *Store) checkFree(bytes int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.options.Root, &fs); err != nil {
		return fmt.Errorf("look at free space of %s: %w", s.options.Root, err)
	}
	free, all := int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize
	if reserve := min(s.options.Limits.FreeBytes, all/20); free-bytes < reserve {
		return fmt.Errorf("%w: of %d free bytes of the file system of %s %d are to remain free", unix.ENOSPC, free, s.options.Root, reserve)
	}
	if fs.Files > 0 && fs.Ffree < fs.Files/20 { // some file systems do not count
		return fmt.Errorf("%w: the file system of %s has only %d of %d inodes left", unix.ENOSPC, s.options.Root, fs.Ffree, fs.Files)
	}
	return nil
}

// maxWindow is what `zstd --ultra -22` needs. A layer that asks for more is refused, since it would take as much memory.
const maxWindow = 128 << 20

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	skipMagic = []byte{0x2a, 0x4d, 0x18} // after 0x50 to 0x5f: a frame of zstd that decoders skip, with which pzstd begins
)

// decompress goes by the content, as media types have been wrong before.
func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	magic, err := buffered.Peek(4)
	if err != nil && len(magic) == 0 && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		return gzip.NewReader(buffered)
	case bytes.HasPrefix(magic, zstdMagic), len(magic) == 4 && magic[0]>>4 == 5 && bytes.HasPrefix(magic[1:], skipMagic):
		d, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(buffered), nil
}

// contextReader ends reading when the work is not wanted any more.
type contextReader struct {
	ctx   context.Context
	inner io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.inner.Read(p)
}
