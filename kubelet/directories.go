package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/settings"
)

// makeDirectories makes the directories that the kubelet owns. Other users of the machine are kept from those of pods, whose
// secrets are files that all may read.
//
// Upstream: pkg/kubelet/kubelet.go setupDataDirs
func makeDirectories(ctx context.Context, s *settings.Settings) error {
	if err := errors.Join(os.MkdirAll(s.RootDir, 0o755), os.MkdirAll(filepath.Join(s.RootDir, "pods"), 0o750), os.MkdirAll(s.PodLogsDir, 0o755)); err != nil {
		return fmt.Errorf("make the kubelet's directories: %w", err)
	}
	return makePluginDirectories(ctx, s.RootDir, "/sys/fs/selinux/enforce")
}

// makePluginDirectories makes the directories that plugins, which are containers, put sockets into, and that of the socket that
// tells of devices. Their manifests may ask for these to be there. With SELinux, which has that file, a container that is not
// privileged may write only what has the label of containers' files.
func makePluginDirectories(ctx context.Context, root, selinux string) error {
	_, err := os.Stat(selinux)
	enabled := err == nil
	for name, written := range map[string]bool{"plugins": true, "plugins_registry": true, "device-plugins": true, "pod-resources": false} {
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("make the directories of plugins: %w", err)
		}
		if !enabled || !written {
			continue
		}
		if err := unix.Setxattr(dir, "security.selinux", []byte("system_u:object_r:container_file_t:s0"), 0); err != nil {
			klog.FromContext(ctx).Error(err, "Plugins in containers that are not privileged may not work: their directory cannot be labelled", "dir", dir)
		}
	}
	return nil
}

// shareMounts makes sure that a directory is on a shared mount, so that what a container with mount propagation Bidirectional
// mounts below it reaches the kubelet and other pods: a CSI driver's volumes do. Where it is on none, which is so on
// machines without systemd, the directory is bound to itself, and stays so for the pods that outlive the kubelet. What
// pods have mounted there by then would be hidden below that, and never go: then it waits until they are gone.
func shareMounts(ctx context.Context, dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	if shared, err := onSharedMount(dir); err != nil || shared {
		return err
	}
	below, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return !strings.HasPrefix(m.Mountpoint, dir+"/"), false })
	if err != nil {
		return err
	}
	if len(below) > 0 {
		klog.FromContext(ctx).Info("The root directory is on no shared mount and pods have volumes there: it will be made one when the kubelet starts without", "dir", dir, "mounts", len(below))
		return nil
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to itself: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		return fmt.Errorf("make %s a shared mount: %w", dir, err)
	}
	return nil
}

// onSharedMount reports whether the mount that a path without links is on, the last one with the longest mount point
// above it, is shared.
func onSharedMount(path string) (bool, error) {
	above, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil {
		return false, err
	}
	var on mountinfo.Info
	for _, mount := range above {
		if len(mount.Mountpoint) >= len(on.Mountpoint) {
			on = *mount
		}
	}
	return strings.Contains(" "+on.Optional, " shared:"), nil
}
