package pod

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// IsSidecar tells whether an init container goes on running beside the regular ones.
func IsSidecar(container *corev1.Container) bool {
	return container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// IsInit tells whether the pod has an init container of that name.
func IsInit(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name })
}

// IsRegular tells whether the pod has a regular container of that name.
func IsRegular(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == name })
}

// IsEphemeral tells whether the pod has an ephemeral container of that name.
func IsEphemeral(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name })
}

// Containers goes through the init containers, sidecars among them, and then the regular ones.
func Containers(pod *corev1.Pod) iter.Seq[*corev1.Container] {
	return func(yield func(*corev1.Container) bool) {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}

// AllContainers goes through init, regular and ephemeral containers.
func AllContainers(pod *corev1.Pod) iter.Seq[*corev1.Container] {
	return func(yield func(*corev1.Container) bool) {
		for container := range Containers(pod) {
			if !yield(container) {
				return
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			if !yield((*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)) {
				return
			}
		}
	}
}

// LastingContainers goes through those that run for as long as the pod does: the sidecars and the regular ones.
func LastingContainers(pod *corev1.Pod) iter.Seq[*corev1.Container] {
	return func(yield func(*corev1.Container) bool) {
		for container := range Containers(pod) {
			if (!IsInit(pod, container.Name) || IsSidecar(container)) && !yield(container) {
				return
			}
		}
	}
}

// Container returns the init, regular or ephemeral container of that name, nil if there is none.
func Container(pod *corev1.Pod, name string) *corev1.Container {
	for container := range AllContainers(pod) {
		if container.Name == name {
			return container
		}
	}
	return nil
}

// SortIPs picks, of the addresses that the runtime tells of a pod, those that it has in its status and its variables: the first of
// the node's family, and then the first of the other.
//
// Upstream: pkg/kubelet/kubelet_pods.go sortPodIPs.
func SortIPs(ips, hostIPs []string) (picked []string) {
	six := func(ip string) bool { return strings.Contains(ip, ":") }
	first := len(hostIPs) > 0 && six(hostIPs[0])
	for _, family := range []bool{first, !first} {
		if i := slices.IndexFunc(ips, func(ip string) bool { return six(ip) == family }); i >= 0 {
			picked = append(picked, ips[i])
		}
	}
	return picked
}

// Reference is the pod in an event, or its container of that name.
func Reference(pod *corev1.Pod, container string) *corev1.ObjectReference {
	ref := &corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
	if container != "" {
		ref.FieldPath = FieldPath(pod, container)
	}
	return ref
}

// FieldPath is where in the pod the container stands, as events name it: spec.containers{name}.
func FieldPath(pod *corev1.Pod, name string) string {
	field := "containers"
	if IsInit(pod, name) {
		field = "initContainers"
	} else if IsEphemeral(pod, name) {
		field = "ephemeralContainers"
	}
	return fmt.Sprintf("spec.%s{%s}", field, name)
}
