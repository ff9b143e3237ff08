package images_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/trees"
)

// TestRemoveGoesOn: an image of which something could not be deleted is not used any more, but is listed until another
// removal has deleted the rest, so that the kubelet asks for one.
func TestRemoveGoesOn(t *testing.T) {
	registry := newServer(t)
	root := filepath.Join(t.TempDir(), "images")
	s := open(t, images.Options{Root: root})
	ref := registry.push(t, "app:1", imageOf(t, files(t, "dir/a", "1")))
	id := pull(t, s, ref)
	layer := names(t, filepath.Join(root, "layers"))[0]
	if err := unix.Mount("stuck", filepath.Join(root, "layers", layer, "fs", "dir"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Remove(testContext(t), ref); !errors.Is(err, trees.ErrMounted) {
			t.Errorf("removal with a mount in a layer: %v", err)
		}
		if _, ok := s.Image(ref); ok {
			t.Error("the image is still found")
		}
		if list := s.List(); len(list) != 1 || list[0].ID != id {
			t.Errorf("listed: %v", list)
		}
	}
	stuck, err := filepath.Glob(filepath.Join(root, "tmp", "*", "fs", "dir"))
	if err != nil || len(stuck) != 1 {
		t.Fatalf("the mount is at %v, %v", stuck, err)
	}
	if err := unix.Unmount(stuck[0], 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(testContext(t), id); err != nil || len(s.List()) != 0 {
		t.Errorf("%d images, %v", len(s.List()), err)
	}
	for _, dir := range []string{"images", "layers", "blobs", "tmp"} {
		if left := names(t, filepath.Join(root, dir)); len(left) != 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
	if got := read(t, mount(t, s, "c1", pull(t, s, ref)), "dir/a"); got != "1" {
		t.Errorf("pulled again, the file has %q", got)
	}
}

// TestUnmountGoesOn: a snapshot is known, also after a restart, until all of it is removed.
func TestUnmountGoesOn(t *testing.T) {
	registry := newServer(t)
	root := filepath.Join(t.TempDir(), "images")
	s := open(t, images.Options{Root: root})
	id := pull(t, s, registry.push(t, "app:1", imageOf(t, files(t, "a", "1"))))
	dir := filepath.Join(t.TempDir(), "rootfs")
	if err := s.Mount(testContext(t), "c1", id, dir, nil); err != nil {
		t.Fatal(err)
	}
	stuck := filepath.Join(root, "snapshots", "c1", "upper", "stuck")
	write(t, stuck, nil)
	immutable := func(flags int) error {
		f, err := os.Open(stuck)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
	}
	if err := immutable(unix.STATX_ATTR_IMMUTABLE); err != nil {
		t.Skipf("the file system has no immutable files: %v", err)
	}
	t.Cleanup(func() { _ = immutable(0) })
	for range 2 {
		if err := s.Unmount("c1", dir); !errors.Is(err, unix.EPERM) {
			t.Errorf("removal of an immutable file: %v", err)
		}
		if got := s.Snapshots("c"); len(got) != 1 || exists(filepath.Join(dir, "a")) {
			t.Errorf("snapshots %v, or it is still mounted", got)
		}
		s.Close()
		s = open(t, images.Options{Root: root})
	}
	if err := errors.Join(immutable(0), s.Unmount("c1", dir)); err != nil || len(s.Snapshots("")) != 0 || exists(filepath.Dir(filepath.Dir(stuck))) {
		t.Errorf("snapshots %v, %v", s.Snapshots(""), err)
	}
}
