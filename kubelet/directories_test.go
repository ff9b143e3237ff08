package kubelet

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/namespaces"
)

// TestShareMounts: a directory on a private mount becomes a shared one, once, and not while something is mounted below.
func TestShareMounts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs the right to mount")
	}
	dir := t.TempDir()
	volume := filepath.Join(dir, "pods", "volume")
	done := make(chan struct{})
	namespaces.OnThread(func() { // whose mounts end with it
		defer close(done)
		must := func(err error) {
			if err != nil {
				t.Error(err)
				runtime.Goexit()
			}
		}
		must(unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS))
		must(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
		must(os.MkdirAll(volume, 0o755))
		for _, step := range []struct {
			before func() error
			want   bool
		}{
			{func() error { return unix.Mount("tmpfs", volume, "tmpfs", 0, "") }, false},
			{func() error { return unix.Unmount(volume, 0) }, true},
			{func() error { return unix.Mount("tmpfs", volume, "tmpfs", 0, "") }, true},
		} {
			must(step.before())
			must(shareMounts(t.Context(), dir))
			if shared, err := onSharedMount(dir); err != nil || shared != step.want {
				t.Errorf("shared: %v, %v, want %v", shared, err, step.want)
			}
		}
		must(unix.Unmount(volume, 0))
		must(unix.Unmount(dir, 0)) // once is enough
		must(os.RemoveAll(volume))
		if shared, err := onSharedMount(dir); err != nil || shared {
			t.Errorf("it was bound to itself more than once: %v", err)
		}
	})
	<-done
}
