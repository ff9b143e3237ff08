package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cgroups"
)

// mountEmptyDir makes the directory, or mounts memory or huge pages on it. Mode and group are set in the same step, for two
// reasons: a kubelet that is killed in between must not leave a directory that the pod cannot write to, and after a reboot
// the directory exists while the mount is new. A directory that exists already is not changed: its content is the pod's.
//
// Upstream: pkg/volume/emptydir/empty_dir.go SetUpAt.
func (m *Manager) mountEmptyDir(pod *corev1.Pod, e *corev1.EmptyDirVolumeSource, dir string) error {
	access := access{mode: 0o777, group: podinfo.FSGroup(pod)}
	if access.group != nil {
		access.mode |= unix.S_ISGID
	}
	switch {
	case e.Medium == corev1.StorageMediumDefault:
		return makeDir(dir, access)
	case e.Medium == corev1.StorageMediumMemory:
		access.mode |= unix.S_ISVTX // as the kernel makes a tmpfs
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return mountTmpfs(dir, m.memorySize(pod, e), access)
	case isHugePages(e):
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return mountHugePages(pod, e.Medium, dir, access)
	}
	return fmt.Errorf("unknown storage medium %q", e.Medium)
}

func isHugePages(e *corev1.EmptyDirVolumeSource) bool {
	return e.Medium == corev1.StorageMediumHugePages || strings.HasPrefix(string(e.Medium), string(corev1.StorageMediumHugePagesPrefix))
}

// emptyDirStands tells whether the directory exists and has mounted what it should have.
func (m *Manager) emptyDirStands(e *corev1.EmptyDirVolumeSource, dir string) bool {
	if e.Medium == corev1.StorageMediumDefault {
		_, err := os.Lstat(dir)
		return err == nil
	}
	mounted, err := isMountpoint(dir)
	return err == nil && mounted
}

// access is who may use a directory: its mode, with the kernel's bits, and its group, nil for the kubelet's own.
type access struct {
	mode  uint32
	group *int64
}

// options are the mount options that give a new file system's root its mode and its group.
func (a access) options() string {
	text := fmt.Sprintf("mode=%04o", a.mode)
	if a.group != nil {
		text += fmt.Sprintf(",gid=%d", *a.group)
	}
	return text
}

// makeDir makes a directory under another name, sets its mode and group, and then renames it, so that it never exists without.
func makeDir(dir string, a access) error {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), "..new_") // no volume has such a name
	if err != nil {
		return err
	}
	if a.group != nil {
		err = os.Lchown(made, -1, int(*a.group))
	}
	if err == nil {
		err = unix.Chmod(made, a.mode)
	}
	if err == nil {
		err = os.Rename(made, dir)
	}
	if err != nil {
		return errors.Join(err, os.Remove(made))
	}
	return nil
}

// memorySize is how large a volume of memory may get: as the node, the pod or the volume's own limit says, whichever is
// smallest; 0 for any size.
func (m *Manager) memorySize(pod *corev1.Pod, e *corev1.EmptyDirVolumeSource) int64 {
	allocatable := m.opts.Allocatable()
	size := allocatable.Memory().Value()
	limits := []int64{ptr.Deref(cgroups.MemoryLimit(pod), 0)}
	if e.SizeLimit != nil {
		limits = append(limits, e.SizeLimit.Value())
	}
	for _, limit := range limits {
		if limit > 0 && (size == 0 || limit < size) {
			size = limit
		}
	}
	return size
}

// pageSize is the size of huge pages that a volume is made of: what its medium says, which must be among what the pod
// requests, or the only size that the pod requests.
//
// Upstream: pkg/volume/emptydir/empty_dir.go getPageSizeMountOption.
func pageSize(pod *corev1.Pod, medium corev1.StorageMedium) (want resource.Quantity, err error) {
	anySize := medium == corev1.StorageMediumHugePages
	if !anySize {
		if want, err = resource.ParseQuantity(strings.TrimPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix))); err != nil {
			return want, err
		}
	}
	var sizes []resource.Quantity
	add := func(requests corev1.ResourceList) {
		for name := range requests {
			text, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
			size, err := resource.ParseQuantity(text)
			if ok && err == nil && (anySize || size.Cmp(want) == 0) && !slices.ContainsFunc(sizes, func(q resource.Quantity) bool { return q.Cmp(size) == 0 }) {
				sizes = append(sizes, size)
			}
		}
	}
	if pod.Spec.Resources != nil {
		add(pod.Spec.Resources.Requests)
	}
	for c := range podinfo.Containers(pod) {
		add(c.Resources.Requests)
	}
	switch len(sizes) {
	case 0:
		return want, fmt.Errorf("medium %s: hugePages storage requested, but there is no resource request for huge pages", medium)
	case 1:
		return sizes[0], nil
	}
	return want, fmt.Errorf("medium: %s can't be used if container requests multiple huge page sizes", medium)
}
