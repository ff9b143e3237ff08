// Package volumes puts a pod's volumes on the node before its containers start and takes them away after they ended.
// Everything happens in the pod's worker, at once: there is no reconciler to wait for.
//
// Volumes live in PODS/UID/volumes/kubernetes.io~KIND/NAME, as upstream's do, and what is there after a restart of
// the kubelet is told from these directories and the kernel's mounts alone.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/podworkers/objects"
)

// Options are where volumes go and what fills them.
type Options struct {
	// PodsDir is the directory of pods' directories: ROOT/pods.
	PodsDir string
	Objects *objects.Manager
	// HostIPs and Allocatable are the node's, for downward API volumes.
	HostIPs     func() []string
	Allocatable func() corev1.ResourceList
	Registerer  prometheus.Registerer // may be nil
}

// Manager mounts and unmounts volumes. Calls for one pod must not overlap: a pod has one worker.
//
// Upstream: pkg/kubelet/volumemanager/volume_manager.go volumeManager.
type Manager struct {
	opts    Options
	metrics *metrics
}

// New returns a Manager.
func New(opts Options) *Manager { return &Manager{opts, newMetrics(opts.Registerer)} }

// plugins are upstream's directory names of the kinds that have a directory.
var plugins = map[string]string{
	"emptyDir": "empty-dir", "configMap": "configmap", "secret": "secret", "downwardAPI": "downward-api", "projected": "projected",
}

// kindOf names the volume's source as the API does; "" for one that is not supported here.
func kindOf(v *corev1.Volume) string {
	switch {
	case v.EmptyDir != nil:
		return "emptyDir"
	case v.HostPath != nil:
		return "hostPath"
	case v.ConfigMap != nil:
		return "configMap"
	case v.Secret != nil:
		return "secret"
	case v.DownwardAPI != nil:
		return "downwardAPI"
	case v.Projected != nil:
		return "projected"
	case v.Image != nil:
		return "image" // the runtime mounts it
	}
	return ""
}

func (m *Manager) podDir(uid types.UID) string { return filepath.Join(m.opts.PodsDir, string(uid)) }

// dir is the volume's directory on the node, or the host's own for a hostPath.
func (m *Manager) dir(uid types.UID, v *corev1.Volume) string {
	if v.HostPath != nil {
		return v.HostPath.Path
	}
	return filepath.Join(m.podDir(uid), "volumes", "kubernetes.io~"+plugins[kindOf(v)], v.Name)
}

// Mount puts all volumes of the pod in place. It can be called again at any time: what changed is replaced, what
// stands stays. Errors name the volume.
//
// Upstream: pkg/kubelet/volumemanager/volume_manager.go WaitForAttachAndMount.
func (m *Manager) Mount(ctx context.Context, pod *corev1.Pod) error {
	var errs []error
	m.metrics.begin(pod.UID)
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		start := time.Now()
		err := m.mount(ctx, pod, v)
		m.metrics.mounted(pod.UID, v, start, err)
		if err != nil {
			errs = append(errs, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) mount(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	dir := m.dir(pod.UID, v)
	switch kindOf(v) {
	case "hostPath":
		return checkHostPath(v.HostPath)
	case "emptyDir":
		return m.mountEmptyDir(pod, v.EmptyDir, dir)
	case "image":
		return nil
	case "":
		return Unsupported(pod)
	}
	files, err := m.payload(ctx, pod, v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Secrets and tokens are never written to a disk.
	if v.ConfigMap == nil {
		if err := mountTmpfs(dir, 0); err != nil {
			return err
		}
	}
	return writeAtomic(dir, files, fsGroup(pod))
}

func (m *Manager) mountEmptyDir(pod *corev1.Pod, e *corev1.EmptyDirVolumeSource, dir string) error {
	_, err := os.Lstat(dir)
	fresh := errors.Is(err, os.ErrNotExist)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	switch {
	case e.Medium == corev1.StorageMediumMemory:
		var size int64
		if e.SizeLimit != nil {
			size = e.SizeLimit.Value()
		}
		if err := mountTmpfs(dir, size); err != nil {
			return err
		}
	case e.Medium != corev1.StorageMediumDefault:
		return fmt.Errorf("emptyDir.medium %q is not supported by this kubelet yet", e.Medium)
	}
	if !fresh {
		return nil // its contents, and who may see them, are the pod's by now
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	if group := fsGroup(pod); group != nil {
		return setGroup(dir, int(*group))
	}
	return nil
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// setGroup makes a fresh directory the group's, and what is put into it later.
//
// Upstream: pkg/volume/volume_linux.go SetVolumeOwnership.
func setGroup(dir string, group int) error {
	if err := os.Lchown(dir, -1, group); err != nil {
		return err
	}
	return os.Chmod(dir, 0o777|os.ModeSetgid)
}

// NextRefresh is when one of the pod's tokens wants replacing; zero for never.
func (m *Manager) NextRefresh(uid types.UID) time.Time { return m.opts.Objects.TokenRefresh(uid) }
