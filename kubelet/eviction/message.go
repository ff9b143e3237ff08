package eviction

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"minikubelet/kubelet/settings"
)

// Annotations of the event.
//
// Upstream: pkg/kubelet/eviction/helpers.go.
const (
	annotationContainers      = "offending_containers"
	annotationContainersUsage = "offending_containers_usage"
	annotationPod             = "offending_pod"
	annotationPodUsage        = "offending_pod_usage"
	annotationResource        = "starved_resource"
)

// explain says in upstream's words why a pod is evicted. u is nil if the pod could not be measured. It is pure.
func explain(pod *corev1.Pod, u *podUsage, t settings.EvictionThreshold, o observations) (message string, annotations map[string]string) {
	short := meanings[t.Signal].resource
	seen := o[t.Signal]
	message = fmt.Sprintf("The node was low on resource: %v. Threshold quantity: %s, available: %s. ",
		short, quantity(t, seen.capacity), format(t.Signal, seen.available))
	annotations = map[string]string{}
	if u == nil {
		return message, annotations
	}
	if request, ok := podRequest(pod, short); ok {
		used := resource.NewQuantity(u.memory, resource.BinarySI).String()
		message += fmt.Sprintf("Pod %s was using %s, request is %s, has larger consumption of %v. ", pod.Name, used, request.String(), short)
		annotations[annotationPod], annotations[annotationPodUsage] = pod.Name, used
	}
	var names, amounts []string
	for _, c := range u.containers {
		request, used, exceeded := c.exceeds(pod, short)
		if !exceeded {
			continue
		}
		message += fmt.Sprintf("Container %s was using %s, request is %s, has larger consumption of %v. ", c.name, used.String(), request.String(), short)
		names, amounts = append(names, c.name), append(amounts, used.String())
	}
	annotations[annotationContainers] = strings.Join(names, ",")
	annotations[annotationContainersUsage] = strings.Join(amounts, ",")
	annotations[annotationResource] = string(short)
	return message, annotations
}

// podRequest is what a pod with resources of its own requests of memory.
func podRequest(pod *corev1.Pod, name corev1.ResourceName) (resource.Quantity, bool) {
	if name != corev1.ResourceMemory || !resourcehelper.IsPodLevelResourcesSet(pod) {
		return resource.Quantity{}, false
	}
	request, ok := pod.Spec.Resources.Requests[name]
	return request, ok
}

// exceeds compares what a container uses with its own request.
func (c containerUsage) exceeds(pod *corev1.Pod, name corev1.ResourceName) (request, used resource.Quantity, exceeded bool) {
	switch name {
	case corev1.ResourceMemory:
		used = *resource.NewQuantity(c.memory, resource.BinarySI)
	case corev1.ResourceEphemeralStorage:
		used = *resource.NewQuantity(c.rootfs.bytes+c.logs.bytes, resource.BinarySI)
	default:
		return request, used, false
	}
	containers := slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers)
	i := slices.IndexFunc(containers, func(s corev1.Container) bool { return s.Name == c.name })
	if i < 0 {
		return request, used, false
	}
	request = containers[i].Resources.Requests[name]
	return request, used, used.Cmp(request) > 0
}

// quantity is the threshold, as upstream writes it: a part of a total in binary units, of whatever that is.
func quantity(t settings.EvictionThreshold, total int64) string {
	if t.Value.Percent > 0 {
		return resource.NewQuantity(t.Value.Of(total), resource.BinarySI).String()
	}
	return format(t.Signal, t.Value.Of(total))
}

// format writes bytes in binary units and counts in decimal ones.
func format(signal string, amount int64) string {
	switch meanings[signal].resource {
	case resourceInodes, resourcePIDs:
		return resource.NewQuantity(amount, resource.DecimalSI).String()
	}
	return resource.NewQuantity(amount, resource.BinarySI).String()
}
