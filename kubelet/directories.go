package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/settings"
)

// makeDirectories makes the directories that the kubelet owns.
//
// Upstream: pkg/kubelet/kubelet.go setupDataDirs
func makeDirectories(ctx context.Context, s *settings.Settings) error {
	for _, dir := range []string{s.RootDir, filepath.Join(s.RootDir, "pods"), s.PodLogsDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the kubelet's directories: %w", err)
		}
	}
	if err := shareMounts(ctx, s.RootDir); err != nil {
		return fmt.Errorf("share the mounts below --root-dir: %w", err)
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
