package images_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/images"
)

// unpack pulls an image of these layers and returns the topmost one's directory, as overlayfs gets it.
func unpack(t *testing.T, o images.Options, layers ...[]byte) (string, error) {
	t.Helper()
	registry := newServer(t)
	o.Root = filepath.Join(t.TempDir(), "images")
	s := open(t, o)
	if len(layers) > 1 {
		pull(t, s, registry.push(t, "below:1", imageOf(t, layers[:len(layers)-1]...)))
	}
	below := names(t, filepath.Join(o.Root, "layers"))
	_, err := s.Pull(testContext(t), registry.push(t, "app:1", imageOf(t, layers...)), nil)
	for _, name := range names(t, filepath.Join(o.Root, "layers")) {
		if !slices.Contains(below, name) {
			return filepath.Join(o.Root, "layers", name, "fs"), err
		}
	}
	if left := names(t, filepath.Join(o.Root, "tmp")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	return "", err
}

func mustUnpack(t *testing.T, layers ...[]byte) string {
	t.Helper()
	fs, err := unpack(t, images.Options{}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

func xattr(path, name string) string {
	value := make([]byte, 1000)
	n, err := unix.Lgetxattr(path, name, value)
	if err != nil {
		return ""
	}
	return string(value[:n])
}

// capability is a security.capability value: CAP_NET_RAW, permitted and effective.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func TestUnpackKeepsAttributes(t *testing.T) {
	at := time.Unix(1_000_000_000, 123_456_789)
	pax := func(pairs ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			m["SCHILY.xattr."+pairs[i]] = pairs[i+1]
		}
		return m
	}
	fs := mustUnpack(t, layerTar(t, map[string]string{"bin/su": "su", "./bin/ping": "ping", "/abs": "abs"},
		entry{Name: "./", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 5, Gid: 6, ModTime: at},
		entry{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o2750, Uid: 1, Gid: 2, ModTime: at},
		entry{Name: "bin/su", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 0, Gid: 0, ModTime: at, Format: tar.FormatPAX},
		entry{Name: "./bin/ping", Typeflag: tar.TypeReg, Mode: 0o755, Uid: 1000, Gid: 1000, ModTime: at,
			PAXRecords: pax("security.capability", capability, "user.color", "blue", "trusted.overlay.redirect", "/", "trusted.overlay.metacopy", "",
				"user.overlay.opaque", "y", "security.selinux", "system_u:object_r:etc_t:s0", "trusted.other", "x")},
		entry{Name: "bin/ping2", Typeflag: tar.TypeLink, Linkname: "./bin/ping"},
		entry{Name: "/abs", Typeflag: tar.TypeReg, Mode: 0o600, Uid: 4_000_000_000, Gid: 7},
		entry{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "../../../etc/passwd", Uid: 3, Gid: 4, ModTime: at},
		entry{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666},
		entry{Name: "dev/disk", Typeflag: tar.TypeBlock, Devmajor: 259, Devminor: 300, Mode: 0o660},
		entry{Name: "run/fifo", Typeflag: tar.TypeFifo, Mode: 0o600},
		entry{Name: "tmp", Typeflag: tar.TypeDir, Mode: 0o1777, PAXRecords: pax("user.of", "tmp")},
	))
	for _, c := range []struct {
		name     string
		mode     uint32
		uid, gid uint32
		rdev     uint64
	}{
		{".", unix.S_IFDIR | 0o711, 5, 6, 0},
		{"bin", unix.S_IFDIR | 0o2750, 1, 2, 0},
		{"bin/su", unix.S_IFREG | 0o4755, 0, 0, 0}, // not the group of its setgid directory
		{"bin/ping", unix.S_IFREG | 0o755, 1000, 1000, 0},
		{"bin/ping2", unix.S_IFREG | 0o755, 1000, 1000, 0},
		{"abs", unix.S_IFREG | 0o600, 4_000_000_000, 7, 0},
		{"out", unix.S_IFLNK | 0o777, 3, 4, 0},
		{"dev", unix.S_IFDIR | 0o755, 0, 0, 0}, // implied
		{"dev/null", unix.S_IFCHR | 0o666, 0, 0, unix.Mkdev(1, 3)},
		{"dev/disk", unix.S_IFBLK | 0o660, 0, 0, unix.Mkdev(259, 300)},
		{"run/fifo", unix.S_IFIFO | 0o600, 0, 0, 0},
		{"tmp", unix.S_IFDIR | 0o1777, 0, 0, 0},
	} {
		got := lstat(t, filepath.Join(fs, c.name))
		if got.Mode != c.mode || got.Uid != c.uid || got.Gid != c.gid || got.Rdev != c.rdev {
			t.Errorf("%s: mode %o, owner %d:%d, device %x; want %+v", c.name, got.Mode, got.Uid, got.Gid, got.Rdev, c)
		}
	}
	for _, name := range []string{".", "bin", "bin/su", "out"} {
		if got := lstat(t, filepath.Join(fs, name)).Mtim; got.Sec != at.Unix() {
			t.Errorf("%s was modified at %d", name, got.Sec)
		}
	}
	if got := lstat(t, filepath.Join(fs, "bin/su")).Mtim.Nsec; got != 123_456_789 {
		t.Errorf("nanoseconds are lost: %d", got)
	}
	if a, b := lstat(t, filepath.Join(fs, "bin/ping")), lstat(t, filepath.Join(fs, "bin/ping2")); a.Ino != b.Ino {
		t.Error("hard link is another file")
	}
	ping := filepath.Join(fs, "bin/ping")
	for name, want := range map[string]string{"security.capability": capability, "user.color": "blue", "trusted.overlay.redirect": "",
		"user.overlay.opaque": "", "trusted.other": ""} {
		if got := xattr(ping, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := xattr(filepath.Join(fs, "tmp"), "user.of"); got != "tmp" {
		t.Errorf("xattr of a directory is %q", got)
	}
	if target, _ := os.Readlink(filepath.Join(fs, "out")); target != "../../../etc/passwd" {
		t.Errorf("symbolic link to %s", target)
	}
}

// TestWhiteouts looks at what a container sees of three layers.
func TestWhiteouts(t *testing.T) {
	registry := newServer(t)
	lowest := files(t, "gone", "0", "dir/gone", "0", "dir/stays", "0", "opaque/gone", "0", "both/gone", "0", "before/gone", "0", "after/gone", "0",
		"file/gone", "0", "deep/a/b/gone", "0", "again", "0", "implied/x/gone", "0")
	whiteout := func(name string) entry { return entry{Name: name, Typeflag: tar.TypeReg} }
	upper := layerTar(t, map[string]string{"opaque/new": "1", "both/new": "1", "before/new": "1", "after/new": "1", "file": "1", "again": "1", "implied/x/new": "1"},
		whiteout(".wh.gone"), whiteout("dir/.wh.gone"),
		dir("opaque"), whiteout("opaque/.wh..wh..opq"), whiteout("opaque/new"),
		whiteout(".wh.before"), dir("before"), whiteout("before/new"),
		dir("after"), whiteout("after/new"), whiteout(".wh.after"),
		whiteout("both/new"), whiteout("both/.wh..wh..opq"),
		whiteout(".wh.file"), whiteout("file"), whiteout(".wh.file"),
		whiteout("deep/a/.wh.b"), whiteout(".wh..wh.aufs"), whiteout(".wh..wh.plnk/77.1"),
		whiteout("again"), whiteout(".wh.again"), whiteout(".wh.never"),
		whiteout("implied/.wh.x"), whiteout("implied/x/new"),
	)
	s := open(t, images.Options{})
	root := mount(t, s, "c1", pull(t, s, registry.push(t, "app:1", imageOf(t, lowest, upper))))
	var got []string
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		name, _ := filepath.Rel(root, path)
		got = append(got, name)
		return err
	})
	want := ". after after/new again before before/new both both/new deep deep/a dir dir/stays file implied implied/x implied/x/new opaque opaque/new"
	if err != nil || strings.Join(got, " ") != want {
		t.Errorf("the container sees\n%s\nwant\n%s (%v)", strings.Join(got, " "), want, err)
	}
	root = mount(t, s, "c2", pull(t, s, registry.push(t, "app:2", imageOf(t, lowest, layerTar(t, map[string]string{"only": "1"}, whiteout(".wh..wh..opq"), whiteout("only")),
		files(t, "above", "1")))))
	if got := names(t, root); !slices.Equal(got, []string{"above", "only"}) {
		t.Errorf("the root is opaque, and the container sees %v", got)
	}
	// Of a directory that no other layer has, overlayfs shows whiteouts, as files that are not there.
	root = mount(t, s, "c3", pull(t, s, registry.push(t, "app:3", imageOf(t, layerTar(t, nil, dir("d"), whiteout("d/.wh.gone"), whiteout("new/.wh.gone"))))))
	if got := slices.Concat(names(t, root), names(t, filepath.Join(root, "d")), names(t, filepath.Join(root, "new"))); !slices.Equal(got, []string{"d", "new"}) {
		t.Errorf("the lowest layer has whiteouts, and the container sees %v", got)
	}
	_, err = unpack(t, images.Options{}, layerTar(t, nil, whiteout(".wh.")))
	wantError(t, err, "whiteout of nothing")
	_, err = unpack(t, images.Options{}, layerTar(t, nil, whiteout("a/.wh..")))
	wantError(t, err, "whiteout of nothing")
}

// TestImpliedDirectoriesKeepTheirAttributes: a layer with tmp/file and no tmp must not make /tmp 0755.
func TestImpliedDirectoriesKeepTheirAttributes(t *testing.T) {
	lowest := layerTar(t, nil, entry{Name: ".", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 9}, entry{Name: "tmp", Typeflag: tar.TypeDir, Mode: 0o1777},
		entry{Name: "srv", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 33}, entry{Name: "hidden/dir", Typeflag: tar.TypeDir, Mode: 0o700})
	middle := layerTar(t, map[string]string{"tmp/middle": "1"}, entry{Name: "tmp/middle", Typeflag: tar.TypeReg}, entry{Name: "hidden/.wh..wh..opq", Typeflag: tar.TypeReg})
	fs := mustUnpack(t, lowest, middle, files(t, "tmp/top", "2", "srv/top", "2", "hidden/dir/top", "2", "new/top", "2"))
	for name, want := range map[string][2]uint32{".": {0o750, 9}, "tmp": {0o1777, 0}, "srv": {0o700, 33}, "hidden/dir": {0o755, 0}, "new": {0o755, 0}} {
		if got := lstat(t, filepath.Join(fs, name)); got.Mode&0o7777 != want[0] || got.Uid != want[1] {
			t.Errorf("%s has mode %o and owner %d, want %o", name, got.Mode&0o7777, got.Uid, want)
		}
	}
}

func TestUnpackReplacesEarlierEntries(t *testing.T) {
	regular := func(name string) entry { return entry{Name: name, Typeflag: tar.TypeReg} }
	fs := mustUnpack(t, layerTar(t, map[string]string{"a": "a", "d": "file now", "d/x": "x", "l": "l", "f": "f", "twice": "2", "s/in": "in"},
		regular("twice"), regular("twice"),
		dir("d"), regular("d/x"), regular("d"), // a directory with files becomes a file
		regular("f"), dir("f"), entry{Name: "f/y", Typeflag: tar.TypeSymlink, Linkname: "x"}, // and the other way round
		entry{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, dir("s"), regular("s/in"), // a link that a directory replaces
		dir("keep"), entry{Name: "keep/k", Typeflag: tar.TypeFifo}, entry{Name: "keep/", Typeflag: tar.TypeDir, Mode: 0o700}, // a directory stays
		regular("a"), entry{Name: "l", Typeflag: tar.TypeLink, Linkname: "a"}, entry{Name: "l", Typeflag: tar.TypeLink, Linkname: "/a"}, regular("a"),
	))
	if got := read(t, fs, "twice") + read(t, fs, "d") + read(t, fs, "s/in") + read(t, fs, "l"); got != "2file nowina" {
		t.Errorf("contents %q", got)
	}
	if lstat(t, filepath.Join(fs, "f")).Mode&unix.S_IFMT != unix.S_IFDIR || !exists(filepath.Join(fs, "f/y")) || !exists(filepath.Join(fs, "keep/k")) {
		t.Error("directories are not what they were made")
	}
	if lstat(t, filepath.Join(fs, "a")).Ino == lstat(t, filepath.Join(fs, "l")).Ino {
		t.Error("a new file was written into the old one's hard link")
	}
}

// TestHostileLayers: each fails, and has no effect outside.
func TestHostileLayers(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "victim"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	regular := func(name string) entry { return entry{Name: name, Typeflag: tar.TypeReg} }
	symlink := func(name, target string) entry { return entry{Name: name, Typeflag: tar.TypeSymlink, Linkname: target} }
	hard := func(name, target string) entry { return entry{Name: name, Typeflag: tar.TypeLink, Linkname: target} }
	long := strings.Repeat("a/", 3000)
	for _, c := range []struct {
		name    string
		entries []entry
		says    string
	}{
		{"dot-dot", []entry{regular("../victim")}, `".."`},
		{"dot-dot inside", []entry{dir("a"), regular("a/../../victim")}, `".."`},
		{"dot-dot that stays inside", []entry{regular("a/../b")}, `".."`},
		{"whiteout outside", []entry{regular("../.wh.victim")}, `".."`},
		{"hard link to outside", []entry{hard("x", "../victim")}, `".."`},
		{"hard link through a link", []entry{symlink("out", outside), hard("x", "out/victim")}, "hard link"},
		{"hard link to an absolute path", []entry{hard("x", outside+"/victim")}, "hard link"},
		{"hard link to nothing", []entry{hard("x", "y")}, "hard link"},
		{"hard link to a directory", []entry{dir("d"), hard("x", "d")}, "directory"},
		{"hard link to itself", []entry{regular("x"), hard("x", "x")}, "itself"},
		{"file below a file", []entry{regular("x"), regular("x/y")}, "not a directory"},
		{"links in a circle", []entry{symlink("a", "b"), symlink("b", "a"), regular("a/x")}, "symbolic link"},
		{"root as a link", []entry{symlink("./", outside)}, "root"},
		{"root removed", []entry{regular(".wh.")}, "whiteout"},
		{"file in a whiteout", []entry{regular(".wh.a/b")}, "no directory"},
		{"whiteout in a whiteout", []entry{regular("a/.wh.b/.wh.c")}, "no directory"},
		{"file in a whiteout that a link leads to", []entry{symlink("a", ".wh.b"), regular("a/c")}, "no directory"},
		{"directory in a whiteout below a link", []entry{symlink("a", "b/.wh..wh..opq/c"), dir("a/d")}, "no directory"},
		{"opaque whiteout that a link leads to", []entry{symlink("a", ".wh..wh..opq"), regular("a/.wh..wh..opq")}, "no directory"},
		{"hard link into a whiteout", []entry{symlink("a", ".wh.b"), hard("x", "a/c")}, "no directory"},
		{"owner nobody has", []entry{{Name: "x", Typeflag: tar.TypeReg, Uid: 1<<32 - 1}}, "owner"},
		{"device number nobody has", []entry{{Name: "x", Typeflag: tar.TypeChar, Devmajor: 1 << 20}}, "device"},
		{"long name", []entry{regular(long + "x")}, "name of"},
		{"long component", []entry{regular(strings.Repeat("x", 300))}, "too long"},
		{"empty symbolic link", []entry{symlink("x", "")}, ""},
		{"unknown type", []entry{{Name: "x", Typeflag: 'Q'}}, "not supported"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := unpack(t, images.Options{}, layerTar(t, map[string]string{"x": ""}, c.entries...))
			wantError(t, err, c.says)
		})
	}
	if got := names(t, outside); len(got) != 1 || read(t, outside, "victim") != "untouched" || lstat(t, filepath.Join(outside, "victim")).Nlink != 1 {
		t.Errorf("outside there is %v", got)
	}
}

// TestUnpackBelowALink: packages of a distribution whose /lib is a link to usr/lib come in one layer with it, and name
// their files both ways. containerd follows the link, too.
func TestUnpackBelowALink(t *testing.T) {
	regular := func(name string) entry { return entry{Name: name, Typeflag: tar.TypeReg} }
	fs := mustUnpack(t, files(t, "usr/lib/below", "0"), layerTar(t, map[string]string{"lib/c.so": "c", "usr/lib/d.so": "d", "lib/dir/e": "e", "opt/up/f": "f"},
		dir("usr"), entry{Name: "usr/lib", Typeflag: tar.TypeDir, Mode: 0o711}, entry{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "usr/lib"},
		regular("lib/c.so"), regular("usr/lib/d.so"), entry{Name: "lib/dir", Typeflag: tar.TypeDir, Mode: 0o700}, regular("lib/dir/e"),
		entry{Name: "opt/up", Typeflag: tar.TypeSymlink, Linkname: "../usr/lib"}, regular("opt/up/f"),
		entry{Name: "hard", Typeflag: tar.TypeLink, Linkname: "lib/c.so"}, regular("lib/.wh.below")))
	if got := read(t, fs, "usr/lib/c.so") + read(t, fs, "usr/lib/d.so") + read(t, fs, "usr/lib/dir/e") + read(t, fs, "hard") + read(t, fs, "usr/lib/f"); got != "cdecf" {
		t.Errorf("contents %q", got)
	}
	if target, _ := os.Readlink(filepath.Join(fs, "lib")); target != "usr/lib" {
		t.Errorf("lib is a link to %q", target)
	}
	if lstat(t, filepath.Join(fs, "usr/lib")).Mode&0o7777 != 0o711 || lstat(t, filepath.Join(fs, "usr/lib/dir")).Mode&0o7777 != 0o700 {
		t.Error("a directory has another mode")
	}
	if whiteout := lstat(t, filepath.Join(fs, "usr/lib/below")); whiteout.Mode&unix.S_IFMT != unix.S_IFCHR || whiteout.Rdev != 0 {
		t.Error("a file of the layer below is not hidden")
	}
}

// TestUnpackThroughLinks: links above an entry lead where they would in a container, never outside of it, and to directories
// that only a layer below has, which keep their attributes. containerd does so too.
func TestUnpackThroughLinks(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "victim"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	inside := strings.TrimPrefix(outside, "/")
	registry, s := newServer(t), open(t, images.Options{})
	below := layerTar(t, map[string]string{"usr/lib/below": "0"}, entry{Name: "usr/lib", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 7}, entry{Name: "usr/lib/below", Typeflag: tar.TypeReg})
	regular := func(name string) entry { return entry{Name: name, Typeflag: tar.TypeReg} }
	symlink := func(name, target string) entry { return entry{Name: name, Typeflag: tar.TypeSymlink, Linkname: target} }
	for _, c := range []struct {
		name    string
		entries []entry
		there   string // file that the container has
		gone    string // file that it does not have any more
	}{
		{"absolute", []entry{symlink("lib", "/usr/lib"), regular("lib/x")}, "usr/lib/x", ""},
		{"relative", []entry{symlink("a/lib", "../usr/lib"), regular("a/lib/x")}, "usr/lib/x", ""},
		{"above the root", []entry{symlink("lib", "../../../usr/lib"), regular("lib/x")}, "usr/lib/x", ""},
		{"outside", []entry{symlink("out", outside), regular("out/x")}, inside + "/x", ""},
		{"outside, and back", []entry{symlink("out", "../../../../../../../.."), regular("out/" + inside + "/x")}, inside + "/x", ""},
		{"to a link", []entry{symlink("a", "b"), symlink("b", "/usr"), regular("a/lib/x")}, "usr/lib/x", ""},
		{"in the place of a directory", []entry{dir("d"), regular("d/x"), symlink("d", outside), regular("d/x")}, inside + "/x", ""},
		{"to what a directory replaces later", []entry{symlink("l", "/usr/lib"), regular("l/x"), dir("l"), regular("l/y")}, "usr/lib/x", ""},
		{"directory", []entry{symlink("lib", "/usr/lib"), dir("lib/d"), regular("lib/d/x")}, "usr/lib/d/x", ""},
		{"hard link", []entry{symlink("lib", "/usr/lib"), regular("usr/lib/y"), {Name: "lib/x", Typeflag: tar.TypeLink, Linkname: "lib/y"}}, "usr/lib/x", ""},
		{"whiteout", []entry{symlink("lib", "/usr/lib"), regular("lib/.wh.below"), regular("lib/x")}, "usr/lib/x", "usr/lib/below"},
		{"opaque", []entry{symlink("lib", "/usr/lib"), regular("lib/x"), regular("lib/.wh..wh..opq")}, "usr/lib/x", "usr/lib/below"},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := imageOf(t, below, layerTar(t, map[string]string{c.entries[len(c.entries)-1].Name: ""}, c.entries...))
			root := mount(t, s, "c1", pull(t, s, registry.push(t, "app:1", image)))
			if !exists(filepath.Join(root, c.there)) || c.gone != "" && exists(filepath.Join(root, c.gone)) {
				t.Errorf("the container has %v, in usr/lib %v", names(t, root), names(t, filepath.Join(root, "usr/lib")))
			}
			if got := lstat(t, filepath.Join(root, "usr/lib")); got.Mode&0o7777 != 0o711 || got.Uid != 7 {
				t.Errorf("usr/lib has mode %o and owner %d", got.Mode&0o7777, got.Uid)
			}
		})
	}
	if got := names(t, outside); len(got) != 1 || read(t, outside, "victim") != "untouched" {
		t.Errorf("outside there is %v", got)
	}
}

// TestLinkThroughASymbolicLinkAsName links the symbolic link itself, and not what it names.
func TestLinkThroughASymbolicLinkAsName(t *testing.T) {
	fs := mustUnpack(t, layerTar(t, nil, entry{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, entry{Name: "h", Typeflag: tar.TypeLink, Linkname: "s"}))
	if lstat(t, filepath.Join(fs, "h")).Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Error("the hard link is not the symbolic link")
	}
}

func TestLayerLimits(t *testing.T) {
	bomb := func() []byte { // 8 MiB of zeros in 8 KiB
		var b bytes.Buffer
		zip := gzip.NewWriter(&b)
		w := tar.NewWriter(zip)
		_ = w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: 8 << 20})
		_, _ = io.CopyN(w, zeros{}, 64<<20)
		_, _ = w.Close(), zip.Close()
		return b.Bytes()
	}()
	plain := func() []byte {
		r, _ := gzip.NewReader(bytes.NewReader(bomb))
		content, _ := io.ReadAll(r)
		return content
	}()
	var many []entry
	for i := range 200 {
		many = append(many, entry{Name: fmt.Sprintf("d/%d", i), Typeflag: tar.TypeFifo})
	}
	huge := layerTar(t, nil, entry{Name: "a", Typeflag: tar.TypeReg})
	copy(huge[124:136], "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff") // a size of 2^63-1
	fixChecksum(huge[:512])
	for _, c := range []struct {
		name   string
		limits images.Limits
		layers [][]byte
		says   string
	}{
		{"bomb", images.Limits{UnpackedBytes: 1 << 20}, [][]byte{plain}, "more than"},
		{"bomb behind the end", images.Limits{UnpackedBytes: 1 << 20}, [][]byte{append(files(t, "a", "1"), make([]byte, 2<<20)...)}, "limit"},
		{"huge size", images.Limits{}, [][]byte{huge}, "more than"},
		{"many entries", images.Limits{LayerEntries: 100}, [][]byte{layerTar(t, nil, many...)}, "more than 100 entries"},
		{"many implied directories", images.Limits{LayerEntries: 100}, [][]byte{files(t, strings.Repeat("a/", 200)+"a", "")}, "more than 100 entries"},
		{"compressed size", images.Limits{CompressedBytes: 100}, [][]byte{layerTar(t, nil, many...)}, "refused"},
		{"layers", images.Limits{Layers: 1}, [][]byte{files(t, "a", "1"), files(t, "b", "2")}, "2 layers"},
		{"config", images.Limits{ConfigBytes: 10}, [][]byte{files(t, "a", "1")}, "config"},
	} {
		t.Run(c.name, func(t *testing.T) {
			registry := newServer(t)
			s := open(t, images.Options{Limits: c.limits})
			_, err := s.Pull(testContext(t), registry.push(t, "app:1", imageOf(t, c.layers...)), nil)
			wantError(t, err, c.says)
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// fixChecksum makes a changed tar header valid.
func fixChecksum(header []byte) {
	copy(header[148:156], "        ")
	sum := 0
	for _, b := range header {
		sum += int(b)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func TestTruncatedTar(t *testing.T) {
	whole := files(t, "a", strings.Repeat("x", 5000))
	_, err := unpack(t, images.Options{}, whole[:3000])
	wantError(t, err, "unexpected EOF")
}
