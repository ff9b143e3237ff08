package images_test

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/namespaces"
)

// TestMountForAUserNamespace: files have the owners that the namespace makes of the image's, what is changed is written
// with them, and the layers stay as they are for everybody else.
func TestMountForAUserNamespace(t *testing.T) {
	pins := filepath.Join(t.TempDir(), "ns")
	t.Cleanup(func() { _ = namespaces.Unpin(pins) })
	one := []user.IDMap{{ParentID: 200000, Count: 65536}}
	ids := &user.IdentityMapping{UIDMaps: one, GIDMaps: one}
	err := namespaces.Pin(namespaces.Options{Dir: pins, Kinds: []string{namespaces.User}, Users: ids})
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		t.Skipf("no user namespaces here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	owner := &images.Owner{UserNS: filepath.Join(pins, namespaces.User), OnMachine: ids.ToHost}
	root := filepath.Join(t.TempDir(), "images")
	s := open(t, images.Options{Root: root})
	if err := s.CanMap(owner); err != nil {
		t.Skipf("this kernel cannot: %v", err)
	}
	registry := newServer(t)
	id := pull(t, s, registry.push(t, "app:1", imageOf(t,
		layerTar(t, nil, entry{Name: ".", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 9}, entry{Name: "low", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 1, Gid: 2}), files(t, "high", "1"))))
	dir := filepath.Join(t.TempDir(), "rootfs")
	for range 2 {
		if err := s.Mount(testContext(t), "c1", id, dir, owner); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string][2]uint32{".": {200009, 200000}, "low": {200001, 200002}, "high": {200000, 200000}} {
		if uid, gid := owners(t, filepath.Join(dir, name)); uid != want[0] || gid != want[1] {
			t.Errorf("%s belongs to %d:%d, want %v", name, uid, gid, want)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "low"), 0o600); err != nil { // copies it up
		t.Fatal(err)
	}
	if uid, _ := owners(t, filepath.Join(dir, "low")); uid != 200001 {
		t.Errorf("after a change it belongs to %d", uid)
	}
	plain := mount(t, s, "c2", id)
	if uid, gid := owners(t, filepath.Join(plain, "low")); uid != 1 || gid != 2 {
		t.Errorf("to others it belongs to %d:%d", uid, gid)
	}
	if exists(filepath.Join(root, "snapshots", "c1", "lower")) {
		t.Error("the mounts of single layers are left")
	}
	if err := s.Unmount("c1", dir); err != nil {
		t.Error(err)
	}
	gone := &images.Owner{UserNS: filepath.Join(pins, "not-there"), OnMachine: ids.ToHost}
	wantError(t, s.Mount(testContext(t), "c3", id, dir, gone), "open user namespace")
	if left := names(t, filepath.Join(root, "tmp")); len(left) > 0 || exists(filepath.Join(root, "snapshots", "c3")) {
		t.Errorf("left: %v", left)
	}
}

func owners(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Uid, stat.Gid
}
