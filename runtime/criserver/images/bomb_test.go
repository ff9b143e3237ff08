package images_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/images"
)

// sparse is a tar with one file of GNU's sparse format, of which almost all is a hole.
func sparse(t *testing.T, name string, size int64) []byte {
	t.Helper()
	content := strings.Repeat("x", 512)
	m := fmt.Sprintf("1\n%d\n512\n", size-512) // data at the end only
	m += strings.Repeat("\x00", 512-len(m))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	// Written as raw records: the package writes no sparse files.
	records := ""
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=" + name, "GNU.sparse.realsize=" + strconv.FormatInt(size, 10)} {
		n := len(r) + 3
		for len(strconv.Itoa(n))+len(r)+2 != n {
			n = len(strconv.Itoa(n)) + len(r) + 2
		}
		records += strconv.Itoa(n) + " " + r + "\n"
	}
	header := func(kind byte, name string, size int) {
		block := make([]byte, 512)
		copy(block, name)
		copy(block[100:], "0000644\x000000000\x000000000\x00")
		copy(block[124:], fmt.Sprintf("%011o\x00%011o\x00", size, 0))
		block[156] = kind
		copy(block[257:], "ustar\x0000")
		copy(block[148:], "        ")
		sum := 0
		for _, c := range block {
			sum += int(c)
		}
		copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
		b.Write(block)
	}
	header('x', "PaxHeaders/"+name, len(records))
	b.WriteString(records + strings.Repeat("\x00", (512-len(records)%512)%512))
	header('0', name, len(m)+len(content))
	b.WriteString(m + content)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestHoles: what is a hole or a long row of zeros in a layer takes no space, and reads as it should.
func TestHoles(t *testing.T) {
	const size = 64 << 20
	var zeros bytes.Buffer
	w := tar.NewWriter(&zeros)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zeroReader{}, size); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, images.Options{Limits: images.Limits{ImageBytes: 1 << 20}})
	registry := newServer(t)
	for name, layer := range map[string][]byte{"hole": sparse(t, "hole", size), "zeros": zeros.Bytes()} {
		ref := registry.push(t, name, imageOf(t, layer))
		id, err := s.Pull(testContext(t), ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "root")
		if err := s.Mount(testContext(t), name, id, dir, nil); err != nil {
			t.Fatal(err)
		}
		var stat unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &stat); err != nil || stat.Size != size || stat.Blocks*512 > 1<<20 {
			t.Errorf("%s: %d bytes in %d blocks, %v", name, stat.Size, stat.Blocks, err)
		}
		if name == "hole" {
			f, err := os.Open(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			end := make([]byte, 513)
			if _, err := f.ReadAt(end, size-513); err != nil || string(end) != "\x00"+strings.Repeat("x", 512) {
				t.Errorf("it ends with %q, %v", end, err)
			}
			f.Close()
		}
		if err := s.Unmount(name, dir); err != nil {
			t.Error(err)
		}
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestImageLimits: what an image may take of disk and memory is bounded, and the error names image, layer and limit.
func TestImageLimits(t *testing.T) {
	noise := bytes.Repeat([]byte("not zeros "), 30_000)
	file := oneEntry(t, &tar.Header{Typeflag: tar.TypeReg, Name: "file", Mode: 0o644, Size: int64(len(noise))}, noise)
	var deep []byte
	{
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := range 40 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.Repeat(fmt.Sprint("d", i, "/"), 900), Mode: 0o755, Format: tar.FormatPAX}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		deep = b.Bytes()
	}
	registry := newServer(t)
	for name, tc := range map[string]struct {
		layers [][]byte
		limits images.Limits
		want   string
	}{
		"all layers together": {[][]byte{file, oneEntry(t, &tar.Header{Typeflag: tar.TypeReg, Name: "other", Mode: 0o644, Size: int64(len(noise))}, noise)}, images.Limits{ImageBytes: 400_000}, "more than 400000 bytes"},
		"names":               {[][]byte{deep}, images.Limits{NameBytes: 4 << 20}, "more than 4194304 bytes of memory"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, images.Options{Limits: tc.limits})
			ref := registry.push(t, strings.ReplaceAll(name, " ", "-"), imageOf(t, tc.layers...))
			_, err := s.Pull(testContext(t), ref, nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), ref) || !strings.Contains(err.Error(), "sha256:") {
				t.Errorf("%v", err)
			}
		})
	}
}

func oneEntry(t *testing.T, header *tar.Header, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(header); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestFullDisk: a pull leaves a part of the file system to others, says so, and leaves nothing behind.
func TestFullDisk(t *testing.T) {
	needRoot(t)
	disk := t.TempDir()
	if err := unix.Mount("small", disk, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	s := open(t, images.Options{Root: filepath.Join(disk, "images")})
	noise := bytes.Repeat([]byte("not zeros "), 2_000_000) // 20 MB
	ref := newServer(t).push(t, "large", imageOf(t, oneEntry(t, &tar.Header{Typeflag: tar.TypeReg, Name: "file", Mode: 0o644, Size: int64(len(noise))}, noise)))
	if _, err := s.Pull(testContext(t), ref, nil); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("%v", err)
	}
	for _, dir := range []string{"tmp", "layers"} {
		if left, err := os.ReadDir(filepath.Join(disk, "images", dir)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}

// TestOpenOnAFullDisk: a store that has no room to try what its file system can do opens all the same.
func TestOpenOnAFullDisk(t *testing.T) {
	needRoot(t)
	disk := t.TempDir()
	if err := unix.Mount("small", disk, "tmpfs", 0, "nr_inodes=64"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	o := images.Options{Root: filepath.Join(disk, "images")}
	open(t, o).Close()
	for i := 0; ; i++ {
		if err := os.WriteFile(filepath.Join(disk, strconv.Itoa(i)), nil, 0o600); errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	open(t, o)
}

// TestUnpacksAtOnce: however many images are pulled, few layers are unpacked at the same time.
func TestUnpacksAtOnce(t *testing.T) {
	const pulls = 6
	var entered atomic.Int32
	release := make(chan struct{})
	s := open(t, images.Options{Limits: images.Limits{Unpacks: 2}, Progress: func(e images.Event) {
		if e.Phase == images.Unpacking {
			entered.Add(1)
			<-release
		}
	}})
	registry := newServer(t)
	done := make(chan error, pulls)
	for i := range pulls {
		text := []byte(fmt.Sprint("image ", i))
		ref := registry.push(t, fmt.Sprint("many-", i), imageOf(t, oneEntry(t, &tar.Header{Typeflag: tar.TypeReg, Name: "file", Mode: 0o644, Size: int64(len(text))}, text)))
		go func() {
			_, err := s.Pull(testContext(t), ref, nil)
			done <- err
		}()
	}
	for registry.count("GET", "/blobs/") < 2*pulls { // configs and layers
		runtime.Gosched()
	}
	for range 1000 {
		runtime.Gosched()
	}
	if n := entered.Load(); n > 2 {
		t.Errorf("%d at the same time", n)
	}
	close(release)
	for range pulls {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
