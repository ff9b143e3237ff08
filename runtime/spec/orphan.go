package spec

import (
	"encoding/json"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// OrphanPod rebuilds, from labels and annotations, as much of a pod as ending it takes: it runs here and no source
// knows it. Its containers have name, preStop hook and ports.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go restoreSpecsFromContainerLabels
func OrphanPod(observed *cri.PodStatus) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: observed.UID, Namespace: observed.Namespace, Name: observed.Name}}
	seen := map[string]bool{}
	for _, status := range observed.Containers {
		if seen[status.Name] {
			continue
		}
		seen[status.Name] = true
		container := corev1.Container{Name: status.Name, TerminationMessagePath: status.Annotations[cri.AnnotationTerminationMessagePath]}
		// What cannot be read is left out: the container still has to end.
		var preStop corev1.LifecycleHandler
		if json.Unmarshal([]byte(status.Annotations[cri.AnnotationPreStopHandler]), &preStop) == nil {
			container.Lifecycle = &corev1.Lifecycle{PreStop: &preStop}
		}
		_ = json.Unmarshal([]byte(status.Annotations[cri.AnnotationPorts]), &container.Ports)
		pod.Spec.Containers = append(pod.Spec.Containers, container)
		if s := seconds(status.Annotations[cri.AnnotationPodDeletionGracePeriod]); s != nil {
			pod.DeletionGracePeriodSeconds = s
		}
		if s := seconds(status.Annotations[cri.AnnotationPodTerminationGrace]); s != nil {
			pod.Spec.TerminationGracePeriodSeconds = s
		}
	}
	return pod
}

func seconds(text string) *int64 {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return &n
	}
	return nil
}

// FindContainer is the container's spec; one that is no longer in the pod's is known from its annotations.
func FindContainer(pod *corev1.Pod, status *cri.ContainerStatus) *corev1.Container {
	if container := podinfo.Container(pod, status.Name); container != nil {
		return container
	}
	orphan := OrphanPod(&cri.PodStatus{Containers: []*cri.ContainerStatus{status}})
	return &orphan.Spec.Containers[0]
}
