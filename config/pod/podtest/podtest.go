// Package podtest makes pods for tests.
package podtest

import (
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pod makes a pod from a line such as "i:a s:b c:main c:other=Never e:debug": init containers, sidecars, regular and
// ephemeral containers, with restart policies of their own.
func Pod(line string, policy corev1.RestartPolicy) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "uid-1"},
		Spec:       corev1.PodSpec{RestartPolicy: policy},
	}
	for word := range strings.FieldsSeq(line) {
		kind, name, _ := strings.Cut(word, ":")
		name, own, _ := strings.Cut(name, "=")
		c := corev1.Container{Name: name, Image: "image:1"}
		if own != "" {
			c.RestartPolicy = new(corev1.ContainerRestartPolicy(own))
		}
		switch kind {
		case "i":
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
		case "s":
			c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
			c.StartupProbe = &corev1.Probe{}
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
		case "c":
			pod.Spec.Containers = append(pod.Spec.Containers, c)
		case "e":
			pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers,
				corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: "image:1"}})
		}
	}
	return pod
}

// Resources are resources from a line such as "100m-200m 1Mi-2Mi": requests and limits of CPU and memory; "" is none.
func Resources(line string) corev1.ResourceRequirements {
	var out corev1.ResourceRequirements
	for i, pair := range strings.Fields(line) {
		name := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}[i]
		request, limit, _ := strings.Cut(pair, "-")
		set := func(list *corev1.ResourceList, amount string) {
			if amount == "" {
				return
			}
			if *list == nil {
				*list = corev1.ResourceList{}
			}
			(*list)[name] = resource.MustParse(amount)
		}
		set(&out.Requests, request)
		set(&out.Limits, limit)
	}
	return out
}
