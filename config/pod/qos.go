package pod

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// QOSClass is the pod's quality of service class: the one in its status when the apiserver has set it, else the one that
// its requests and limits of CPU and memory make it.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	if pod.Spec.Resources != nil && resourcehelper.IsPodLevelResourcesSet(pod) {
		return qosOf([]corev1.ResourceRequirements{*pod.Spec.Resources})
	}
	var all []corev1.ResourceRequirements
	for container := range Containers(pod) {
		all = append(all, container.Resources)
	}
	return qosOf(all)
}

func qosOf(all []corev1.ResourceRequirements) corev1.PodQOSClass {
	var requests, limits [2]resource.Quantity
	guaranteed, any := true, false
	for _, r := range all {
		for i, name := range [2]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			any = any || request.Sign() > 0 || limit.Sign() > 0
			guaranteed = guaranteed && limit.Sign() > 0
			requests[i].Add(request)
			limits[i].Add(limit)
		}
	}
	if !any {
		return corev1.PodQOSBestEffort
	}
	for i := range requests {
		// A missing request defaults to the limit, so only a request that differs costs the class.
		guaranteed = guaranteed && (requests[i].IsZero() || requests[i].Cmp(limits[i]) == 0)
	}
	if guaranteed && len(all) > 0 {
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
