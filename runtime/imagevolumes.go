package runtime

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageMounts pulls the images of the container's image volumes and mounts them.
func (r *Runtime) imageMounts(ctx context.Context, job startJob) ([]*runtimeapi.Mount, error) {
	var out []*runtimeapi.Mount
	for _, mount := range job.Container.VolumeMounts {
		source := imageVolume(job.pod, mount.Name)
		if source == nil {
			continue
		}
		if mount.SubPathExpr != "" {
			return nil, fmt.Errorf("volumeMounts[%s].subPathExpr: not supported for an image volume", mount.Name)
		}
		ref, err := r.ensureImage(ctx, job, source.Reference, source.PullPolicy)
		if err != nil {
			return nil, err
		}
		out = append(out, &runtimeapi.Mount{
			ContainerPath: mount.MountPath, Readonly: true, SelinuxRelabel: r.opts.Node.Kernel.SELinux, ImageSubPath: mount.SubPath,
			Image: &runtimeapi.ImageSpec{
				Image: ref, UserSpecifiedImage: source.Reference, RuntimeHandler: job.handler, Annotations: job.pod.Annotations,
			},
		})
	}
	return out, nil
}

func imageVolume(pod *corev1.Pod, name string) *corev1.ImageVolumeSource {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == name {
			return pod.Spec.Volumes[i].Image
		}
	}
	return nil
}

// withoutImageMounts leaves out the volume mounts that this package makes itself.
func withoutImageMounts(pod *corev1.Pod, container *corev1.Container) *corev1.Container {
	var rest []corev1.VolumeMount
	for _, mount := range container.VolumeMounts {
		if imageVolume(pod, mount.Name) == nil {
			rest = append(rest, mount)
		}
	}
	if len(rest) == len(container.VolumeMounts) {
		return container
	}
	out := container.DeepCopy()
	out.VolumeMounts = rest
	return out
}
