package allocation

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// Reasons of the events that tell of resizes.
const (
	EventDeferred   = "ResizeDeferred"
	EventInfeasible = "ResizeInfeasible"
	EventStarted    = "ResizeStarted"
	EventCompleted  = "ResizeCompleted"
	EventError      = "ResizeError"
)

type containerResources struct {
	Name      string                      `json:"name"`
	Resources corev1.ResourceRequirements `json:"resources"`
}

// Message is what the event of a resize says: what happened, the resources of the pod's containers, the version of the
// pod that asked for them, and what went wrong.
func Message(what string, pod *corev1.Pod, generation int64, problem string) string {
	list := func(containers []corev1.Container) (out []containerResources) {
		for i := range containers {
			out = append(out, containerResources{containers[i].Name, containers[i].Resources})
		}
		return out
	}
	data, err := json.Marshal(struct {
		InitContainers []containerResources `json:"initContainers,omitempty"`
		Containers     []containerResources `json:"containers,omitempty"`
		Generation     int64                `json:"generation"`
		Error          string               `json:"error,omitempty"`
	}{list(pod.Spec.InitContainers), list(pod.Spec.Containers), generation, problem})
	if err != nil {
		return what
	}
	return fmt.Sprintf("%s: %s", what, data)
}
