package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// mountEmptyDir makes the directory, with memory or huge pages mounted on it if it is to be of these.
//
// Upstream: pkg/volume/emptydir/empty_dir.go SetUpAt.
func (m *Manager) mountEmptyDir(pod *corev1.Pod, e *corev1.EmptyDirVolumeSource, dir string) error {
	_, err := os.Lstat(dir)
	fresh := errors.Is(err, os.ErrNotExist)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	switch {
	case e.Medium == corev1.StorageMediumMemory:
		err = mountTmpfs(dir, m.memorySize(pod, e))
	case e.Medium == corev1.StorageMediumHugePages || strings.HasPrefix(string(e.Medium), string(corev1.StorageMediumHugePagesPrefix)):
		err = mountHugePages(pod, e.Medium, dir)
	case e.Medium != corev1.StorageMediumDefault:
		err = fmt.Errorf("unknown storage medium %q", e.Medium)
	default:
		err = nil
	}
	if err != nil || !fresh {
		return err // an older one's contents, and who may see them, are the pod's by now
	}
	mode := fs.FileMode(0o777)
	if e.Medium == corev1.StorageMediumMemory {
		mode |= fs.ModeSticky // as the kernel makes a tmpfs
	}
	if err := os.Chmod(dir, mode); err != nil {
		return err
	}
	if group := fsGroup(pod); group != nil {
		return setGroup(dir, int(*group), mode)
	}
	return nil
}

// memorySize is how large a volume of memory may get: as the node, the pod or the volume's own limit says, whatever is
// smallest; 0 for any size.
//
// Upstream: pkg/volume/emptydir/empty_dir.go calculateEmptyDirMemorySize.
func (m *Manager) memorySize(pod *corev1.Pod, e *corev1.EmptyDirVolumeSource) int64 {
	allocatable := m.opts.Allocatable()
	size := allocatable.Memory().Value()
	smaller := func(q *resource.Quantity) {
		if v := q.Value(); v > 0 && (size == 0 || v < size) {
			size = v
		}
	}
	if limit := podMemoryLimit(pod); limit != nil {
		smaller(limit)
	}
	if e.SizeLimit != nil {
		smaller(e.SizeLimit)
	}
	return size
}

// podMemoryLimit is the memory that the pod may use in all, nil if one of its containers has no limit.
func podMemoryLimit(pod *corev1.Pod) *resource.Quantity {
	if r := pod.Spec.Resources; r != nil {
		if limit, ok := r.Limits[corev1.ResourceMemory]; ok {
			return &limit
		}
	}
	total := resource.NewQuantity(0, resource.BinarySI)
	for i := range pod.Spec.Containers {
		limit := pod.Spec.Containers[i].Resources.Limits.Memory()
		if limit.IsZero() {
			return nil
		}
		total.Add(*limit)
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		limit := c.Resources.Limits.Memory()
		switch sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways; {
		case limit.IsZero():
			return nil
		case sidecar:
			total.Add(*limit)
		case limit.Cmp(*total) > 0:
			total = limit
		}
	}
	return total
}

// pageSize is the size of huge pages that a volume is made of: what its medium says, which must be among what the pod
// requests, or the only size that the pod requests.
//
// Upstream: pkg/volume/emptydir/empty_dir.go getPageSizeMountOption.
func pageSize(pod *corev1.Pod, medium corev1.StorageMedium) (resource.Quantity, error) {
	var sizes []string
	add := func(requests corev1.ResourceList) {
		for name := range requests {
			if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok && !slices.Contains(sizes, size) {
				sizes = append(sizes, size)
			}
		}
	}
	if pod.Spec.Resources != nil {
		add(pod.Spec.Resources.Requests)
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		add(c.Resources.Requests)
	}
	want := strings.TrimPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix))
	switch {
	case medium != corev1.StorageMediumHugePages && !slices.Contains(sizes, want):
		return resource.Quantity{}, fmt.Errorf("medium %s: no container requests huge pages of that size", medium)
	case medium != corev1.StorageMediumHugePages:
	case len(sizes) == 0:
		return resource.Quantity{}, errors.New("hugePages storage requested, but there is no resource request for huge pages")
	case len(sizes) > 1:
		return resource.Quantity{}, errors.New("medium: HugePages can't be used if container requests multiple huge page sizes")
	default:
		want = sizes[0]
	}
	return resource.ParseQuantity(want)
}
