// Package allocation keeps what each pod of the node was given: the resources it was admitted with, or resized to
// since. The spec says what a pod wants, the allocation what the kubelet has agreed to, and the actuated resources what
// the runtime and the cgroups have been told. The three differ only while a resize is under way.
package allocation

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	podinfo "minikubelet/config/pod"
)

// Resources are those of a pod: its own, if it has any, and its init and regular containers' by name.
//
// Upstream: pkg/kubelet/allocation/state/state.go PodResourceInfo
type Resources struct {
	Pod        *corev1.ResourceRequirements           `json:"pod,omitempty"`
	Containers map[string]corev1.ResourceRequirements `json:"containers,omitempty"`
}

// Of returns the resources of a pod's spec.
func Of(pod *corev1.Pod) Resources {
	r := Resources{Pod: pod.Spec.Resources.DeepCopy(), Containers: map[string]corev1.ResourceRequirements{}}
	for container := range podinfo.Containers(pod) {
		r.Containers[container.Name] = *container.Resources.DeepCopy()
	}
	return r
}

// Apply returns the pod with these resources in its spec, and whether they differ from what was there. The pod given is
// not changed, and is returned itself if nothing differs.
func (r Resources) Apply(pod *corev1.Pod) (*corev1.Pod, bool) {
	changed := false
	edit := func() *corev1.Pod {
		if !changed {
			pod, changed = pod.DeepCopy(), true
		}
		return pod
	}
	if !equality.Semantic.DeepEqual(pod.Spec.Resources, r.Pod) {
		edit().Spec.Resources = r.Pod.DeepCopy()
	}
	for container := range podinfo.Containers(pod) {
		if given, ok := r.Containers[container.Name]; ok && !equality.Semantic.DeepEqual(container.Resources, given) {
			podinfo.Container(edit(), container.Name).Resources = *given.DeepCopy()
		}
	}
	return pod, changed
}

// lag returns the actuated resources as a new allocation makes them: with the value before of what changes. Entries that are
// there stay, since they say what was really done.
func (r Resources) lag(before, after Resources) Resources {
	if r.Pod == nil && !equality.Semantic.DeepEqual(before.Pod, after.Pod) {
		if r.Pod = before.Pod.DeepCopy(); r.Pod == nil {
			r.Pod = &corev1.ResourceRequirements{}
		}
	}
	out := Resources{Pod: r.Pod, Containers: map[string]corev1.ResourceRequirements{}}
	for name, old := range before.Containers {
		if has, lagging := r.Containers[name]; lagging {
			out.Containers[name] = has
		} else if wanted, ok := after.Containers[name]; ok && !equality.Semantic.DeepEqual(old, wanted) {
			out.Containers[name] = old
		}
	}
	return out
}

// empty tells that nothing lags.
func (r Resources) empty() bool { return r.Pod == nil && len(r.Containers) == 0 }

func (r Resources) clone() Resources {
	out := Resources{Pod: r.Pod.DeepCopy(), Containers: make(map[string]corev1.ResourceRequirements, len(r.Containers))}
	for name, resources := range r.Containers {
		out.Containers[name] = *resources.DeepCopy()
	}
	return out
}
