package volumes

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
)

// used returns the pod's volumes that a container mounts, has as a device or reads variables from. The others are not mounted, so
// they need not exist.
//
// Upstream: pkg/volume/util/util.go GetPodVolumeNames.
func used(pod *corev1.Pod) (list []*corev1.Volume) {
	names := map[string]bool{}
	for c := range podinfo.AllContainers(pod) {
		for i := range c.VolumeMounts {
			names[c.VolumeMounts[i].Name] = true
		}
		for _, device := range c.VolumeDevices {
			names[device.Name] = true
		}
		for i := range c.Env {
			if from := c.Env[i].ValueFrom; from != nil && from.FileKeyRef != nil {
				names[from.FileKeyRef.VolumeName] = true
			}
		}
	}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; names[v.Name] {
			list = append(list, v)
		}
	}
	return list
}

// nested returns the paths in a volume on which a container mounts others. These must be there when the container starts, since it
// gets the volume read-only.
//
// Upstream: pkg/volume/util/nested_volumes.go MakeNestedMountpoints.
func nested(pod *corev1.Pod, volume string) (paths []string) {
	for c := range podinfo.AllContainers(pod) {
		for i := range c.VolumeMounts {
			at := &c.VolumeMounts[i]
			if at.Name != volume || at.SubPath != "" || at.SubPathExpr != "" {
				continue
			}
			top := path.Clean("/"+at.MountPath) + "/"
			for j := range c.VolumeMounts {
				if inside, is := strings.CutPrefix(path.Clean("/"+c.VolumeMounts[j].MountPath), top); is {
					paths = append(paths, inside)
				}
			}
		}
	}
	return paths
}
