package runtime

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
)

// Reasons of the events this package sends.
const (
	eventCreated               = "Created"
	eventStarted               = "Started"
	eventFailed                = "Failed"
	eventKilling               = "Killing"
	eventBackOff               = "BackOff"
	eventSandboxChanged        = "SandboxChanged"
	eventFailedCreateSandbox   = "FailedCreatePodSandBox"
	eventFailedSandboxStatus   = "FailedPodSandBoxStatus"
	eventFailedPodContainer    = "FailedCreatePodContainer"
	eventFailedPostStartHook   = "FailedPostStartHook"
	eventFailedPreStopHook     = "FailedPreStopHook"
	eventFailedValidation      = "FailedValidation"
	eventLifecycleHTTPFallback = "LifecycleHTTPFallback"
)

func (r *Runtime) podEvent(pod *corev1.Pod, kind, reason, format string, args ...any) {
	r.opts.Events.Event(podinfo.Reference(pod, ""), kind, reason, fmt.Sprintf(format, args...))
}

// containerEvent names the container in the event's reference. An ID in the text, which the runtime likes to put
// into its errors, would make every event a new one, so the name takes its place.
func (r *Runtime) containerEvent(pod *corev1.Pod, container *corev1.Container, id, kind, reason, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if id != "" {
		message = strings.ReplaceAll(message, id, container.Name)
	}
	r.opts.Events.Event(podinfo.Reference(pod, container.Name), kind, reason, message)
}

// text is an error without gRPC's preamble, as users get to see it.
func text(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}
