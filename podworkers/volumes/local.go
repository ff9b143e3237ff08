package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers/csi"
	"minikubelet/runtime/mounts"
)

// mountLocal binds a directory of the node to the pod's. Its files go to the group of the first pod that has it: another one that
// came later would take them away from that.
//
// Upstream: pkg/volume/local/local.go SetUpAt.
func (m *Manager) mountLocal(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, pv *corev1.PersistentVolume, readOnly bool) error {
	source := pv.Spec.Local.Path
	if err := m.files.answers(ctx, source); err != nil {
		return fmt.Errorf("local volume: %w", err)
	}
	unlock, err := m.locals.Take(ctx, source)
	if err != nil {
		return err
	}
	defer unlock()
	if err := checkLocal(source); err != nil {
		return failed(mounterFailed, pv.Name, err)
	}
	if err := m.exclusive(pod, pv); err != nil {
		return err
	}
	flags, without := bindFlags(pv.Spec.MountOptions)
	if len(without) > 0 {
		klog.FromContext(ctx).Info("Mount options that a directory cannot have are left out", "volume", pv.Name, "options", without)
	}
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	dir := filepath.Join(m.podDir(pod.UID), "volumes", localPlugin, pv.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	made, err := bind(source, dir, flags)
	if err != nil {
		return err
	}
	readOnly = flags&unix.MS_RDONLY != 0
	if podinfo.FSGroup(pod) != nil && !readOnly && (made || !m.stood(pod.UID, v.Name)) {
		if err := m.ownLocal(ctx, pod, pv.Name, dir); err != nil {
			return err
		}
	}
	m.put(pod.UID, v.Name, place{dir: dir, readOnly: readOnly, relabel: !readOnly})
	return nil
}

// checkLocal tells why a path cannot be bound.
//
// Upstream: pkg/volume/local/local.go getGlobalLocalPath, and hostutil.GetFileType, whose words these are.
func checkLocal(path string) error {
	switch kind, err := pathType(path); {
	case err != nil:
		return err
	case kind == corev1.HostPathBlockDev:
		return fmt.Errorf("%s is a block device, and these are not formatted and mounted by this kubelet", path)
	case kind != corev1.HostPathDirectory:
		return errors.New("only directory and block device are supported")
	}
	return nil
}

// exclusive refuses a local volume for one pod alone that another pod has. Callers have locked it.
//
// Upstream: pkg/kubelet/volumemanager/cache/actual_state_of_world.go IsVolumeMountedElsewhere.
func (m *Manager) exclusive(pod *corev1.Pod, pv *corev1.PersistentVolume) error {
	if !slices.Equal(pv.Spec.AccessModes, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}) {
		return nil
	}
	all, err := filepath.Glob(filepath.Join(m.opts.PodsDir, "*", "volume*", localPlugin, pv.Name))
	if err != nil {
		return err
	}
	own := m.podDir(pod.UID) + string(filepath.Separator)
	if slices.ContainsFunc(all, func(at string) bool { return !strings.HasPrefix(at, own) }) {
		return csi.ErrInUse
	}
	return nil
}

// localPlugin is the directory name of local volumes.
const localPlugin = "kubernetes.io~local-volume"

// ownLocal gives a local volume to the pod's group, unless another pod has it.
func (m *Manager) ownLocal(ctx context.Context, pod *corev1.Pod, name, dir string) error {
	others, err := m.mountedElsewhere(dir)
	if err != nil {
		return err
	}
	if !others {
		return m.own(ctx, pod, dir)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("failed to check fsGroup for %s (%w)", dir, err)
	}
	if group := *podinfo.FSGroup(pod); int64(st.Gid) != group && m.opts.Events != nil {
		m.opts.Events.Eventf(pod, corev1.EventTypeWarning, "AlreadyMountedVolume",
			"The requested fsGroup is %d, but the volume %s has GID %d. The volume may not be shareable.", group, name, st.Gid)
	}
	return nil
}

// mountedElsewhere tells whether the pods' directories have another mount of what is mounted on a directory.
func (m *Manager) mountedElsewhere(dir string) (bool, error) {
	pods, err := filepath.EvalSymlinks(m.opts.PodsDir) // mounts have real paths
	if err != nil {
		return false, err
	}
	all, err := mounts.Below(pods)
	if err != nil {
		return false, err
	}
	of := func(i *mountinfo.Info) string { return fmt.Sprintf("%d:%d %s", i.Major, i.Minor, i.Root) }
	count := map[string]int{}
	here := ""
	for _, mount := range all {
		count[of(mount)]++
		if mount.Mountpoint == filepath.Join(pods, strings.TrimPrefix(dir, m.opts.PodsDir)) {
			here = of(mount)
		}
	}
	return count[here] > 1, nil
}

// bindFlags are the mount options that a bind mount can have of its own. The others are those of file systems: mount(8), which
// upstream calls, takes them for a bind mount too, and they have no effect.
func bindFlags(options []string) (flags uintptr, without []string) {
	known := map[string]uintptr{
		"bind": 0, "rw": 0, "defaults": 0, "ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
		"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME, "strictatime": unix.MS_STRICTATIME,
	}
	for _, list := range options {
		for option := range strings.SplitSeq(list, ",") {
			flag, ok := known[option]
			if !ok {
				without = append(without, option)
			}
			flags |= flag
		}
	}
	return flags, without
}
