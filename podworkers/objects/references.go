package objects

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
)

// references lists the Secrets and ConfigMaps that the pod refers to, each once.
func references(pod *corev1.Pod) []key {
	var keys []key
	add := func(kind, name string) {
		k := key{kind, pod.Namespace, name}
		if name != "" && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		add(secret, s.Name)
	}
	addContainers(pod, add)
	addVolumes(pod, add)
	return keys
}

// addContainers adds what environments refer to.
func addContainers(pod *corev1.Pod, add func(kind, name string)) {
	for container := range podinfo.AllContainers(pod) {
		for _, from := range container.EnvFrom {
			if from.SecretRef != nil {
				add(secret, from.SecretRef.Name)
			}
			if from.ConfigMapRef != nil {
				add(configMap, from.ConfigMapRef.Name)
			}
		}
		for _, e := range container.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				add(secret, e.ValueFrom.SecretKeyRef.Name)
			}
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				add(configMap, e.ValueFrom.ConfigMapKeyRef.Name)
			}
		}
	}
}

// addVolumes adds what volumes refer to.
func addVolumes(pod *corev1.Pod, add func(kind, name string)) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Secret != nil {
			add(secret, v.Secret.SecretName)
		}
		if v.ConfigMap != nil {
			add(configMap, v.ConfigMap.Name)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				add(secret, s.Secret.Name)
			}
			if s.ConfigMap != nil {
				add(configMap, s.ConfigMap.Name)
			}
		}
	}
}
