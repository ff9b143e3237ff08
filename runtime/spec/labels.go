package spec

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
	"k8s.io/utils/dump"

	"minikubelet/runtime/cri"
)

func podLabels(pod *corev1.Pod) map[string]string {
	out := make(map[string]string, len(pod.Labels)+3)
	maps.Copy(out, pod.Labels)
	out[kubelettypes.KubernetesPodNameLabel] = pod.Name
	out[kubelettypes.KubernetesPodNamespaceLabel] = pod.Namespace
	out[kubelettypes.KubernetesPodUIDLabel] = string(pod.UID)
	return out
}

func containerLabels(pod *corev1.Pod, container *corev1.Container) map[string]string {
	return map[string]string{
		kubelettypes.KubernetesPodNameLabel:       pod.Name,
		kubelettypes.KubernetesPodNamespaceLabel:  pod.Namespace,
		kubelettypes.KubernetesPodUIDLabel:        string(pod.UID),
		kubelettypes.KubernetesContainerNameLabel: container.Name,
	}
}

func containerAnnotations(pod *corev1.Pod, container *corev1.Container, attempt uint32) (map[string]string, error) {
	out := map[string]string{
		cri.AnnotationHash:                     Hash(container),
		cri.AnnotationRestartCount:             strconv.FormatUint(uint64(attempt), 10),
		cri.AnnotationTerminationMessagePath:   container.TerminationMessagePath,
		cri.AnnotationTerminationMessagePolicy: string(container.TerminationMessagePolicy),
	}
	if s := pod.DeletionGracePeriodSeconds; s != nil {
		out[cri.AnnotationPodDeletionGracePeriod] = strconv.FormatInt(*s, 10)
	}
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		out[cri.AnnotationPodTerminationGrace] = strconv.FormatInt(*s, 10)
	}
	if container.Lifecycle != nil && container.Lifecycle.PreStop != nil {
		text, err := json.Marshal(container.Lifecycle.PreStop)
		if err != nil {
			return nil, fmt.Errorf("lifecycle.preStop: %w", err)
		}
		out[cri.AnnotationPreStopHandler] = string(text)
	}
	if len(container.Ports) > 0 {
		text, err := json.Marshal(container.Ports)
		if err != nil {
			return nil, fmt.Errorf("ports: %w", err)
		}
		out[cri.AnnotationPorts] = string(text)
	}
	return out, nil
}

// Hash stands for the fields that make a running container restart when they change: name and image. It is
// the number an upstream kubelet computes, so that changing kubelets restarts nothing.
//
// Upstream: pkg/kubelet/container/helpers.go HashContainer
func Hash(container *corev1.Container) string {
	// A map of strings cannot fail to marshal.
	text, _ := json.Marshal(map[string]string{"name": container.Name, "image": container.Image})
	hash := fnv.New32a()
	fmt.Fprint(hash, dump.ForHash(text))
	return strconv.FormatUint(uint64(hash.Sum32()), 16)
}
