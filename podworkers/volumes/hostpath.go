package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
)

// mountHostPath makes or checks the host's path, if its file system answers.
func (m *Manager) mountHostPath(ctx context.Context, h *corev1.HostPathVolumeSource) error {
	if h.Type != nil && *h.Type != corev1.HostPathUnset {
		if err := m.files.answers(ctx, h.Path); err != nil {
			return err
		}
	}
	return checkHostPath(h)
}

// checkHostPath makes or checks the host's path as its type says.
//
// Upstream: pkg/volume/hostpath/host_path.go checkTypeInternal.
func checkHostPath(h *corev1.HostPathVolumeSource) error {
	if !filepath.IsAbs(h.Path) {
		return fmt.Errorf("hostPath.path %q: must be absolute", h.Path)
	}
	if h.Type == nil || *h.Type == corev1.HostPathUnset {
		return nil // the runtime makes a directory if there is nothing
	}
	info, err := os.Stat(h.Path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	switch *h.Type {
	case corev1.HostPathDirectoryOrCreate:
		if missing {
			return os.MkdirAll(h.Path, 0o755)
		}
		return check(info.IsDir(), h, "a directory")
	case corev1.HostPathFileOrCreate:
		if missing {
			f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		return check(info.Mode().IsRegular(), h, "a file")
	}
	if missing {
		return fmt.Errorf("hostPath type check failed: %s does not exist", h.Path)
	}
	mode := info.Mode()
	switch *h.Type {
	case corev1.HostPathDirectory:
		return check(info.IsDir(), h, "a directory")
	case corev1.HostPathFile:
		return check(mode.IsRegular(), h, "a file")
	case corev1.HostPathSocket:
		return check(mode&fs.ModeSocket != 0, h, "a socket file")
	case corev1.HostPathCharDev:
		return check(mode&fs.ModeCharDevice != 0, h, "a character device")
	case corev1.HostPathBlockDev:
		return check(mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0, h, "a block device")
	}
	return fmt.Errorf("hostPath.type %q: unknown", *h.Type)
}

func check(ok bool, h *corev1.HostPathVolumeSource, what string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("hostPath type check failed: %s is not %s", h.Path, what)
}
