package runtime

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageVolumes pulls the images of the container's image volumes. What to tell the runtime of each is by the reference in the pod.
func (r *Runtime) imageVolumes(ctx context.Context, job startJob) (map[string]*runtimeapi.ImageSpec, error) {
	out := map[string]*runtimeapi.ImageSpec{}
	for i := range job.Container.VolumeMounts {
		source := imageVolume(job.pod, job.Container.VolumeMounts[i].Name)
		if source == nil {
			continue
		}
		ref, err := r.ensureImage(ctx, job, source.Reference, source.PullPolicy)
		if err != nil {
			return nil, err
		}
		out[source.Reference] = &runtimeapi.ImageSpec{
			Image: ref, UserSpecifiedImage: source.Reference, RuntimeHandler: job.handler, Annotations: job.pod.Annotations,
		}
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
