package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/podworkers/env"
)

// ContainerMounts returns the container's volume mounts for the runtime. vars are its environment, for subPathExpr.
// Of an image volume it says which image and what of it; the rest is the runtime's own matter.
//
// Upstream: pkg/kubelet/kubelet_pods.go makeMounts.
func (m *Manager) ContainerMounts(ctx context.Context, pod *corev1.Pod, c *corev1.Container, vars map[string]string) ([]*runtimeapi.Mount, error) {
	var mounts []*runtimeapi.Mount
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		v := volume(pod, vm.Name)
		if v == nil {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, c.Name)
		}
		mount, err := m.containerMount(ctx, pod, c, i, v, vars)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, mount)
	}
	return mounts, nil
}

func (m *Manager) containerMount(ctx context.Context, pod *corev1.Pod, c *corev1.Container, index int, v *corev1.Volume, vars map[string]string) (*runtimeapi.Mount, error) {
	vm := &c.VolumeMounts[index]
	mount := &runtimeapi.Mount{HostPath: m.dir(pod.UID, v), ContainerPath: vm.MountPath, Readonly: vm.ReadOnly || written(v), SelinuxRelabel: v.HostPath == nil}
	if p, ok := m.placed(pod.UID, v.Name); ok {
		mount.Readonly, mount.SelinuxRelabel = vm.ReadOnly || p.readOnly, p.relabel
	}
	if v.Image != nil {
		mount.HostPath, mount.Image = "", &runtimeapi.ImageSpec{UserSpecifiedImage: v.Image.Reference}
	} else if mount.HostPath == "" {
		return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, c.Name)
	}
	if !path.IsAbs(mount.ContainerPath) {
		mount.ContainerPath = path.Join("/", mount.ContainerPath)
	}
	var err error
	if mount.RecursiveReadOnly, err = m.recursiveReadOnly(pod, vm); err != nil {
		return nil, fmt.Errorf("failed to resolve recursive read-only mode: %w", err)
	}
	if vm.MountPropagation != nil {
		switch *vm.MountPropagation {
		case corev1.MountPropagationHostToContainer:
			mount.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case corev1.MountPropagationBidirectional:
			mount.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		}
	}
	sub, err := subPath(vm, vars)
	if err != nil {
		return nil, err
	}
	if v.Image != nil {
		mount.ImageSubPath = sub
	}
	if sub == "" || v.Image != nil {
		return mount, nil
	}
	if err := m.files.answers(ctx, mount.HostPath); err != nil {
		return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, c.Name, err)
	}
	if mount.HostPath, err = m.bindSubPath(pod, c, index, v, sub); err != nil {
		// What the kernel says of the host's paths is for the log, not for the pod's users.
		klog.FromContext(ctx).Error(err, "The subPath of a container cannot be mounted", "containerName", c.Name, "volume", vm.Name, "subPath", sub)
		if errors.Is(err, errNotMade) {
			return nil, fmt.Errorf("failed to create subPath directory for volumeMount %q of container %q", vm.Name, c.Name)
		}
		return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", vm.Name, c.Name)
	}
	return mount, nil
}

var errNotMade = errors.New("make the directories of the subPath")

// subPath is the path in the volume that a container mounts, "" for all of it.
//
// Upstream: pkg/kubelet/container/helpers.go ExpandContainerVolumeMounts.
func subPath(vm *corev1.VolumeMount, vars map[string]string) (string, error) {
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		var missing []string
		sub = env.Expand(vm.SubPathExpr, func(name string) (string, bool) {
			value, ok := vars[name]
			if value == "" && !slices.Contains(missing, name) { // the rest of the path would be another one
				missing = append(missing, name)
			}
			return value, ok
		})
		if len(missing) > 0 {
			slices.Sort(missing)
			return "", fmt.Errorf("missing value for %s", strings.Join(missing, ", "))
		}
	}
	switch {
	case path.IsAbs(sub):
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	case strings.Contains("/"+sub+"/", "/../"):
		return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", sub)
	}
	return sub, nil
}

// written tells whether containers mount the volume read-only, whatever their specs say.
func written(v *corev1.Volume) bool {
	return v.Image != nil || v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// recursiveReadOnly tells whether what is mounted below the mount is to be read-only too.
func (m *Manager) recursiveReadOnly(pod *corev1.Pod, vm *corev1.VolumeMount) (bool, error) {
	if vm.RecursiveReadOnly == nil || *vm.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	if !vm.ReadOnly {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only", vm.Name)
	}
	if p := vm.MountPropagation; p != nil && *p != corev1.MountPropagationNone {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not compatible with propagation %q", vm.Name, *p)
	}
	can := m.opts.RecursiveReadOnly != nil && m.opts.RecursiveReadOnly(pod)
	switch *vm.RecursiveReadOnly {
	case corev1.RecursiveReadOnlyIfPossible:
		return can, nil
	case corev1.RecursiveReadOnlyEnabled:
		if !can {
			return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", vm.Name)
		}
		return true, nil
	}
	return false, fmt.Errorf("unknown recursive read-only mode %q", *vm.RecursiveReadOnly)
}

// bindSubPath mounts what a path inside a volume leads to on a directory of the kubelet's, and returns that directory. The path
// is opened link by link without leaving the volume, and the opened file descriptor is what gets mounted. So a container that
// changes a link meanwhile does not change what is mounted.
func (m *Manager) bindSubPath(pod *corev1.Pod, c *corev1.Container, index int, v *corev1.Volume, sub string) (string, error) {
	target := filepath.Join(m.podDir(pod.UID), "volume-subpaths", v.Name, c.Name, strconv.Itoa(index))
	root, err := os.OpenFile(m.dir(pod.UID, v), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", err
	}
	defer root.Close()
	source, err := pathrs.OpenatInRoot(root, sub)
	if errors.Is(err, fs.ErrNotExist) {
		if source, err = makeDirs(root, sub); err != nil && !errors.Is(err, unix.ENOTDIR) { // which it is where a link leads nowhere
			err = fmt.Errorf("%w: %w", errNotMade, err)
		}
	}
	if err != nil {
		return "", err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return "", err
	}
	if err := unmountBelow(context.Background(), target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err // of the instance before
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err // it may have been of the other kind
	}
	if err := makeTarget(target, info.IsDir()); err != nil {
		return "", err
	}
	held := fmt.Sprintf("/proc/self/fd/%d", source.Fd())
	if err := unix.Mount(held, target, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("bind to %s: %w", target, err)
	}
	return target, nil
}

// makeDirs makes what is missing of a path inside a volume, and returns its end. New directories get the permissions of
// the volume, whatever the umask, so that the pod's users can write to them as they can to the volume.
func makeDirs(root *os.File, sub string) (*os.File, error) {
	top, err := root.Stat()
	if err != nil {
		return nil, err
	}
	parts := strings.Split(path.Clean(sub), "/")
	for i := 1; ; i++ {
		at := path.Join(parts[:i]...)
		made, err := pathrs.OpenatInRoot(root, at)
		if errors.Is(err, fs.ErrNotExist) {
			if made, err = pathrs.MkdirAllHandle(root, at, 0o750); err == nil {
				err = os.Chmod(fmt.Sprintf("/proc/self/fd/%d", made.Fd()), top.Mode()&(fs.ModePerm|fs.ModeSetgid|fs.ModeSticky))
			}
		}
		if err != nil {
			return nil, err
		}
		if i == len(parts) {
			return made, nil
		}
		made.Close()
	}
}

// makeTarget makes the directory, or the file, that a bind mount needs.
func makeTarget(target string, dir bool) error {
	if dir {
		return os.MkdirAll(target, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

// ReadFile returns a file in one of the pod's volumes, not more of it than limit. The path is walked as that of a
// subPath is.
func (m *Manager) ReadFile(pod *corev1.Pod, name, at string, limit int64) ([]byte, error) {
	v := volume(pod, name)
	if v == nil {
		return nil, fmt.Errorf("cannot find the volume %q", name)
	}
	root, err := os.OpenFile(m.dir(pod.UID, v), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open volume %q: %w", name, withoutPath(err))
	}
	defer root.Close()
	held, err := pathrs.OpenatInRoot(root, at)
	if err != nil {
		return nil, fmt.Errorf("open %q in volume %q: %w", at, name, withoutPath(err))
	}
	defer held.Close()
	info, err := held.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%q in volume %q is not a file of at most %d bytes", at, name, limit)
	}
	file, err := pathrs.Reopen(held, unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("open %q in volume %q: %w", at, name, withoutPath(err))
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, limit))
}

// withoutPath is what went wrong, without the path on the host, which the pod's users are not to see.
func withoutPath(err error) error {
	for e, ok := errors.AsType[*fs.PathError](err); ok; e, ok = errors.AsType[*fs.PathError](err) {
		err = e.Err
	}
	return err
}

func volume(pod *corev1.Pod, name string) *corev1.Volume {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == name {
			return &pod.Spec.Volumes[i]
		}
	}
	return nil
}
