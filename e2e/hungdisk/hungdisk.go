// Package hungdisk mounts a file system that does not answer, as one on the network does whose server is away.
package hungdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Mount returns a directory on which each call hangs until wake is called, or until the test ends. Then it fails. It needs root and a
// kernel with FUSE.
func Mount(t *testing.T) (dir string, wake func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		t.Skip("the kernel has no FUSE")
	}
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	// Nothing reads what the kernel asks of the server.
	if err := unix.Mount("hung", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server.Fd())); err != nil {
		t.Fatal(errors.Join(err, server.Close()))
	}
	wake = func() { _ = server.Close() } // the kernel takes that for the server's end
	t.Cleanup(func() {
		wake()
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, wake
}
