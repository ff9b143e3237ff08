package runtime

import (
	corev1 "k8s.io/api/core/v1"
)

func (r *Runtime) handlerFeatures(name string) corev1.NodeRuntimeHandlerFeatures {
	if r.opts.Handler == nil {
		return corev1.NodeRuntimeHandlerFeatures{}
	}
	return r.opts.Handler(name)
}

// RecursiveReadOnly tells whether the runtime of the pod's class can make mounts read-only with all that is mounted below.
//
// Upstream: pkg/kubelet/kubelet.go runtimeClassSupportsRecursiveReadOnlyMounts
func (r *Runtime) RecursiveReadOnly(pod *corev1.Pod) bool {
	handler, err := r.opts.Classes.LookupRuntimeHandler(pod.Spec.RuntimeClassName)
	if err != nil {
		return false // the sandbox cannot be made either, and that has its event
	}
	can := r.handlerFeatures(handler).RecursiveReadOnlyMounts
	return can != nil && *can
}
