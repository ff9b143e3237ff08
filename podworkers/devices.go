package podworkers

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/cri"
	"minikubelet/status"
)

// part: devices, kubelet/devices

// Devices assigns the devices of device plugins.
type Devices interface {
	// Allocate assigns devices to all containers of a pod; the error is the reason to refuse the pod.
	Allocate(ctx context.Context, pod *corev1.Pod) error
	// Assigned returns what a container that is about to be created gets with its devices; the caller may change it.
	Assigned(ctx context.Context, pod *corev1.Pod, container *corev1.Container) (*runtimeapi.ContainerConfig, error)
	// Health tells how a container's devices are.
	Health(pod types.UID, container string) []corev1.ResourceStatus
}

// unexpectedAdmission is the reason of pods that get no devices.
//
// Upstream: pkg/kubelet/cm/admission/errors.go ErrorReasonUnexpected.
const unexpectedAdmission = "UnexpectedAdmissionError"

// assignDevices assigns the pod's devices before anything of it is started, and ends a pod that gets none. That is part of
// its admission; a plugin may take its time, which the sync loop has none of. A pod that runs when the kubelet starts has
// its devices.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go Allocate, called by pkg/kubelet/allocation/allocation_manager.go canAdmitPod.
func (w *worker) assignDevices(ctx context.Context, pod *corev1.Pod, observed *cri.PodStatus) (signal, error) {
	if observed.ReadySandbox() != nil {
		w.assigned = true // also when the sandbox ends later
	}
	if w.assigned || w.opts.Devices == nil || !asksForDevices(pod) {
		return none, nil
	}
	// Containers that the runtime no longer has did not end: the node has booted again, and the pod is admitted anew.
	if before := pod.Status.Phase; len(observed.Containers) > 0 || before == corev1.PodSucceeded || before == corev1.PodFailed {
		if s := status.Compute(w.statusInputs(pod, observed)); s.Phase == corev1.PodSucceeded || s.Phase == corev1.PodFailed {
			return none, nil
		}
	}
	why := w.opts.Devices.Allocate(ctx, pod)
	if ctx.Err() != nil {
		return none, ctx.Err()
	}
	if w.assigned = why == nil; w.assigned {
		return none, nil
	}
	return w.refuse(ctx, pod, unexpectedAdmission, why), nil
}

// refuse ends a pod that cannot have here what it asks for.
//
// Upstream: pkg/kubelet/kubelet.go rejectPod.
func (w *worker) refuse(ctx context.Context, pod *corev1.Pod, reason string, why error) signal {
	klog.FromContext(ctx).Info("Pod admission denied", "reason", reason, "message", why.Error())
	w.registry.CountRejection(reason)
	w.opts.Events.Event(pod, corev1.EventTypeWarning, reason, why.Error())
	w.override = &status.Override{Phase: corev1.PodFailed, Reason: reason, Message: "Pod was rejected: " + why.Error()}
	return killed
}

// asksForDevices tells whether a container has a limit of what may be a plugin's. Most pods have none.
func asksForDevices(pod *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), func(c corev1.Container) bool {
		for name := range c.Resources.Limits {
			if strings.Contains(string(name), "/") {
				return true
			}
		}
		return false
	})
}

// Assigned returns what device plugins give the container, and the devices of its block volumes.
func (in podInputs) Assigned(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (*runtimeapi.ContainerConfig, error) {
	blocks, err := in.opts.Volumes.ContainerDevices(pod, c)
	if err != nil {
		return nil, err
	}
	given := &runtimeapi.ContainerConfig{}
	if in.opts.Devices != nil {
		if given, err = in.opts.Devices.Assigned(ctx, pod, c); err != nil {
			return nil, err
		}
	}
	given.Devices = append(blocks, given.Devices...)
	return given, nil
}

// deviceHealth tells how the devices of the pod's containers are, by name.
func (w *worker) deviceHealth(pod *corev1.Pod) map[string][]corev1.ResourceStatus {
	if w.opts.Devices == nil {
		return nil
	}
	health := map[string][]corev1.ResourceStatus{}
	for i := range pod.Spec.Containers {
		name := pod.Spec.Containers[i].Name
		health[name] = w.opts.Devices.Health(w.uid, name)
	}
	return health
}
