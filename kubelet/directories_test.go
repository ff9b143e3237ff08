package kubelet

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"minikubelet/kubelet/settings"
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

// TestDirectories: what manifests of CSI drivers and device plugins ask to be there is there, on a new node too, and no other
// user of the machine gets at pods' files.
func TestDirectories(t *testing.T) {
	root := t.TempDir()
	s := &settings.Settings{RootDir: root, KubeletConfiguration: kubeletconfig.KubeletConfiguration{PodLogsDir: filepath.Join(root, "logs")}}
	if err := makeDirectories(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pods", "plugins", "plugins_registry", "device-plugins", "pod-resources"} {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || !info.IsDir() || info.Mode().Perm()&0o027 != 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// TestPluginLabels: with SELinux, containers that are not privileged may write where plugins put their sockets.
func TestPluginLabels(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs the right to label")
	}
	root := t.TempDir()
	label := func(name string) string {
		buffer := make([]byte, 100)
		n, err := unix.Getxattr(filepath.Join(root, name), "security.selinux", buffer)
		if err != nil {
			return ""
		}
		return string(buffer[:n])
	}
	before := label(".") // of a machine that has SELinux itself
	if err := makePluginDirectories(t.Context(), root, filepath.Join(root, "enforce")); err != nil || label("plugins") != before {
		t.Errorf("without SELinux the label is %q, %v", label("plugins"), err)
	}
	if err := os.WriteFile(filepath.Join(root, "enforce"), []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := makePluginDirectories(t.Context(), root, filepath.Join(root, "enforce")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"plugins", "plugins_registry", "device-plugins"} {
		if got := label(name); got != "system_u:object_r:container_file_t:s0" {
			t.Errorf("%s has the label %q", name, got)
		}
	}
	if got := label("pod-resources"); got != before {
		t.Errorf("pod-resources has the label %q", got)
	}
}
