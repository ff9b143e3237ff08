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
	want := *h.Type
	is, err := pathType(h.Path)
	missing := err != nil && !errors.Is(err, errUnknownType)
	switch want {
	case corev1.HostPathDirectoryOrCreate:
		if missing {
			return os.MkdirAll(h.Path, 0o755)
		}
		want = corev1.HostPathDirectory
	case corev1.HostPathFileOrCreate:
		if missing {
			f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		want = corev1.HostPathFile
	}
	name, known := pathTypes[want]
	switch {
	case !known:
		return fmt.Errorf("%s is an invalid volume type", want)
	case err != nil:
		return fmt.Errorf("hostPath type check failed, %s is not a %s, unable to determine its type: %w", h.Path, name, err)
	case is != want:
		return fmt.Errorf("hostPath type check failed: %s is not a %s, it's a %s", h.Path, name, is)
	}
	return nil
}

// pathTypes are the types that a path can have, as messages name them.
var pathTypes = map[corev1.HostPathType]string{
	corev1.HostPathDirectory: "directory", corev1.HostPathFile: "file", corev1.HostPathSocket: "socket file", corev1.HostPathCharDev: "character device", corev1.HostPathBlockDev: "block device",
}

var errUnknownType = errors.New("only recognise file, directory, socket, block device and character device")

// pathType is the type of what is at a path.
func pathType(path string) (corev1.HostPathType, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("path %q does not exist", path)
	}
	if err != nil {
		return "", err
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return corev1.HostPathDirectory, nil
	case mode.IsRegular():
		return corev1.HostPathFile, nil
	case mode&fs.ModeSocket != 0:
		return corev1.HostPathSocket, nil
	case mode&fs.ModeCharDevice != 0:
		return corev1.HostPathCharDev, nil
	case mode&fs.ModeDevice != 0:
		return corev1.HostPathBlockDev, nil
	}
	return "", errUnknownType
}
