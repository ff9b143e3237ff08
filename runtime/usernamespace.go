package runtime

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	podinfo "minikubelet/config/pod"
)

// userNamespace is the node's, or, for a pod that asks for its own, one with IDs that no other pod has.
//
// Upstream: pkg/kubelet/userns/userns_manager.go GetOrCreateUserNamespaceMappings
func (r *Runtime) userNamespace(pod *corev1.Pod) (*runtimeapi.UserNamespace, error) {
	if !podinfo.HasUserNamespace(pod) {
		return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}, nil
	}
	handler, err := r.Classes.LookupRuntimeHandler(pod.Spec.RuntimeClassName)
	if err != nil {
		return nil, fmt.Errorf("user namespace: %w", err)
	}
	if can := r.handlerFeatures(handler).UserNamespaces; r.UserNamespaces == nil || can == nil || !*can {
		if handler != "" {
			return nil, fmt.Errorf("can't set `spec.hostUsers: false`, RuntimeClass handler %q does not support user namespaces", handler)
		}
		return nil, errors.New("can't set `spec.hostUsers: false`, runtime does not support user namespaces")
	}
	return r.UserNamespaces.Mapping(pod.UID)
}

func (r *Runtime) handlerFeatures(name string) corev1.NodeRuntimeHandlerFeatures {
	if r.Handler == nil {
		return corev1.NodeRuntimeHandlerFeatures{}
	}
	return r.Handler(name)
}

// RecursiveReadOnly tells whether the runtime of the pod's class can make mounts read-only with all that is mounted below.
//
// Upstream: pkg/kubelet/kubelet.go runtimeClassSupportsRecursiveReadOnlyMounts
func (r *Runtime) RecursiveReadOnly(pod *corev1.Pod) bool {
	handler, err := r.Classes.LookupRuntimeHandler(pod.Spec.RuntimeClassName)
	if err != nil {
		return false // the sandbox cannot be made either, and that has its event
	}
	can := r.handlerFeatures(handler).RecursiveReadOnlyMounts
	return can != nil && *can
}
