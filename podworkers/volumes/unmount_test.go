package volumes

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// stubborn has the test binary unmount a pod's volumes where mounts cannot be unmounted.
const stubborn = "VOLUMES_TEST_PODS_DIR"

// TestMountThatStays needs root. In a user namespace of its own a process cannot unmount what it was given: unmount says
// EINVAL, as it does of what is not mounted. What the mount shows stays.
func TestMountThatStays(t *testing.T) {
	if dir := os.Getenv(stubborn); dir != "" {
		m := New(Options{PodsDir: dir})
		for name, err := range map[string]error{"Unmount": m.Unmount(context.Background(), "u"), "RemovePod": m.RemovePod(context.Background(), "u")} {
			fmt.Printf("%s: %v\n", name, err)
			if err == nil {
				os.Exit(1)
			}
		}
		os.Exit(0)
	}
	dir, shown := t.TempDir(), t.TempDir()
	target := filepath.Join(dir, "u/volumes/kubernetes.io~empty-dir/v")
	for _, err := range []error{os.MkdirAll(target, 0o755), os.WriteFile(shown+"/precious", []byte("p"), 0o600), unix.Mount(shown, target, "", unix.MS_BIND, "")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	self := exec.Command("/proc/self/exe", "-test.run=^TestMountThatStays$")
	self.Env = append(os.Environ(), stubborn+"="+dir)
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	self.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: one, GidMappings: one}
	out, err := self.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("a mount stayed, and no error tells: %v", err)
	}
	if read(t, shown+"/precious") != "p" {
		t.Error("what was mounted is gone")
	}
}
