package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers/csi"
)

func isBlock(pv *corev1.PersistentVolume) bool {
	return pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock
}

// checkMode tells why containers cannot use a volume as they say.
//
// Upstream: pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go createVolumeSpec.
func checkMode(pod *corev1.Pod, name string, pv *corev1.PersistentVolume) error {
	for c := range podinfo.AllContainers(pod) {
		for _, mount := range c.VolumeMounts {
			if mount.Name == name && isBlock(pv) {
				return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeMounts", name, corev1.PersistentVolumeBlock)
			}
		}
		for _, device := range c.VolumeDevices {
			if device.Name == name && !isBlock(pv) {
				return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeDevices", name, corev1.PersistentVolumeFilesystem)
			}
		}
	}
	return nil
}

// ContainerDevices returns the block devices of the container's volumeDevices for the runtime.
//
// Upstream: pkg/kubelet/kubelet_pods.go makeBlockVolumes.
func (m *Manager) ContainerDevices(pod *corev1.Pod, c *corev1.Container) ([]*runtimeapi.Device, error) {
	var devices []*runtimeapi.Device
	for _, device := range c.VolumeDevices {
		if !filepath.IsAbs(device.DevicePath) {
			return nil, fmt.Errorf("error DevicePath `%s` must be an absolute path", device.DevicePath)
		}
		p, _ := m.placed(pod.UID, device.Name)
		if p.device == "" {
			return nil, fmt.Errorf("cannot find volume %q to pass into container %q", device.Name, c.Name)
		}
		permissions := "mrw"
		if p.readOnly {
			permissions = "r"
		}
		devices = append(devices, &runtimeapi.Device{HostPath: p.device, ContainerPath: device.DevicePath, Permissions: permissions})
	}
	return devices, nil
}

// hold places a volume. The device of a block volume is kept open while the pod has it: the kernel could otherwise give its
// number to another device, which the pod's containers would then have.
//
// Upstream: pkg/volume/util/volumepathhandler AttachFileDevice, which has a loop device keep it open.
func (m *Manager) hold(uid types.UID, name string, p place) (err error) {
	if p.device != "" {
		if p.held, err = os.OpenFile(p.device, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
			return fmt.Errorf("block volume: %w", err)
		}
	}
	m.put(uid, name, p)
	return nil
}

// letGo closes the devices of the pod's block volumes.
func (m *Manager) letGo(uid types.UID) {
	m.mu.Lock()
	places := maps.Clone(m.places[uid])
	m.mu.Unlock()
	for _, p := range places {
		p.held.Close()
	}
}

// mapBlock gives the pod the device of a PersistentVolume, and tells of it.
//
// Upstream: pkg/volume/util/operationexecutor/operation_generator.go GenerateMapVolumeFunc.
func (m *Manager) mapBlock(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, pv *corev1.PersistentVolume, readOnly bool) (err error) {
	plugins := filepath.Join(filepath.Dir(m.opts.PodsDir), "plugins")
	var kind, global string
	switch {
	case pv.Spec.CSI != nil:
		kind, global = "kubernetes.io~csi", filepath.Join(plugins, "kubernetes.io/csi/volumeDevices", pv.Name, "dev")
		err = m.mountCSI(ctx, pod, v, csi.Persistent(pod, pv, readOnly))
	case pv.Spec.Local != nil:
		kind = localPlugin
		global = filepath.Join(plugins, kind, "volumeDevices", pv.Name)
		err = m.mapLocal(ctx, pod, v.Name, pv, readOnly)
	default:
		err = fmt.Errorf("PersistentVolume %s: this kubelet knows no block volumes of kind %s", pv.Name, memberName(pv.Spec.PersistentVolumeSource))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return failed(deviceLookupFailed, pv.Name, err)
	case err != nil:
		return failed(mapFailed, pv.Name, err)
	case m.opts.Events == nil:
		return nil
	}
	for _, where := range [][2]string{{"globalMapPath", global}, {"volumeMapPath", filepath.Join(m.podDir(pod.UID), "volumeDevices", kind)}} {
		m.opts.Events.Eventf(pod, corev1.EventTypeNormal, "SuccessfulMountVolume", "MapVolume.MapPodDevice succeeded for volume %q %s %q", pv.Name, where[0], where[1])
	}
	return nil
}

// mapLocal links a block device of the node to the pod.
func (m *Manager) mapLocal(ctx context.Context, pod *corev1.Pod, name string, pv *corev1.PersistentVolume, readOnly bool) error {
	unlock, err := m.locals.Take(ctx, pv.Spec.Local.Path)
	if err != nil {
		return err
	}
	defer unlock()
	if err := m.exclusive(pod, pv); err != nil {
		return failed(setUpDeviceFailed, pv.Name, err)
	}
	if err := csi.CheckDevice(pv.Spec.Local.Path); err != nil {
		return err
	}
	link := filepath.Join(m.podDir(pod.UID), "volumeDevices", localPlugin, pv.Name)
	if err := csi.Link(pv.Spec.Local.Path, link); err != nil {
		return err
	}
	return m.hold(pod.UID, name, place{device: link, readOnly: readOnly})
}

// unmapAll takes the pod's block volumes away. Only links and empty directories are removed.
func (m *Manager) unmapAll(ctx context.Context, pod string) error {
	dir := filepath.Join(pod, "volumeDevices")
	links, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		return err
	}
	for _, link := range links {
		if err := m.unmap(ctx, link, filepath.Base(pod)); err != nil {
			return fmt.Errorf("UnmapVolume failed for volume %q : %w", filepath.Base(link), err)
		}
	}
	kinds, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, path := range append(kinds, dir) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (m *Manager) unmap(ctx context.Context, link, pod string) error {
	kind, name := filepath.Base(filepath.Dir(link)), filepath.Base(link)
	switch {
	case kind == "kubernetes.io~csi" && m.opts.CSI == nil:
		return errors.New("there are CSI volumes, which a kubelet without an apiserver cannot take away")
	case kind == "kubernetes.io~csi":
		return m.opts.CSI.Unmap(ctx, link)
	}
	if err := csi.ReleaseMapped(filepath.Join(filepath.Dir(m.opts.PodsDir), "plugins", kind, "volumeDevices", name, pod)); err != nil {
		return err
	}
	return os.Remove(link)
}
