package volumes

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/podworkers/csi"
)

// failure is why a pod does not have one of its volumes.
type failure struct {
	what string // upstream's step that failed, and that it failed
	name string // that of upstream's spec of the volume: the PersistentVolume's, or the pod's own
	err  error
}

// Error is the message of the event.
//
// Upstream: pkg/volume/util/operationexecutor/operation_executor.go GenerateError.
func (f *failure) Error() string { return fmt.Sprintf("%s for volume %q : %v", f.what, f.name, f.err) }

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.err }

// reason is that of the event.
//
// Upstream: pkg/kubelet/events/event.go
func (f *failure) reason() string {
	if strings.HasPrefix(f.what, "MapVolume.") && f.what != deviceAffinityFailed {
		return "FailedMapVolume"
	}
	return "FailedMount"
}

// Steps of upstream's, and that they failed.
const (
	setUpFailed          = "MountVolume.SetUp failed"
	affinityFailed       = "MountVolume.NodeAffinity check failed"
	mounterFailed        = "MountVolume.NewMounter initialization failed"
	optionsFailed        = "MountVolume.MountOptionSupport check failed"
	expansionFailed      = "MountVolume.Setup failed while expanding volume"
	deviceAffinityFailed = "MapVolume.NodeAffinity check failed"
	setUpDeviceFailed    = "MapVolume.SetUpDevice failed"
	deviceLookupFailed   = "MapVolume.EvalHostSymlinks failed"
	mapFailed            = "MapVolume.MapBlockVolume failed"
	mapExpansionFailed   = "MapVolume.MarkVolumeAsMounted failed while expanding volume"
)

// unprocessed is why a volume cannot be looked at: what it refers to is not there, or not as it should be. Upstream has one event of
// all such volumes of a pod.
type unprocessed struct{ error }

// Unwrap returns the cause.
func (u unprocessed) Unwrap() error { return u.error }

// failed says of which volume an error is, by the name of its spec, and which step failed if the error does not say so.
func failed(what, name string, err error) error {
	_, named := errors.AsType[*failure](err)
	_, whole := errors.AsType[unprocessed](err)
	step, known := errors.AsType[*csi.StepError](err)
	switch {
	case err == nil, named, whole, errors.Is(err, csi.ErrNotAttached):
		return err
	case known:
		what = step.Step + " failed"
	}
	return &failure{what, name, err}
}

// AttachLimitError says that the pod cannot have its volumes since the node takes no more of them.
//
// Upstream: pkg/kubelet/volumemanager/volume_manager.go VolumeAttachLimitExceededError.
type AttachLimitError struct{ lacks string }

// Error implements error.
func (e *AttachLimitError) Error() string {
	return "Node has reached its volume attachment limit, rejecting pod. " + e.lacks
}

// unmounted is a volume that a pod does not have, by the pod's name of it.
type unmounted struct {
	volume string
	err    error
}

// tell sends the events of volumes that a pod does not have. It returns the reason to refuse the pod, nil if that is not to be done.
//
// Upstream: pkg/kubelet/volumemanager/volume_manager.go WaitForAttachAndMount; its error is in an event of pkg/kubelet/kubelet.go SyncPod.
func (m *Manager) tell(pod *corev1.Pod, all []unmounted) error {
	if m.opts.Events == nil || len(all) == 0 {
		return nil
	}
	var names, unattached, unknown, why []string
	for _, u := range all {
		names = append(names, u.volume)
		switch f, named := errors.AsType[*failure](u.err); {
		case errors.Is(u.err, csi.ErrNotAttached):
			unattached = append(unattached, u.volume)
		case named:
			m.opts.Events.Event(pod, corev1.EventTypeWarning, f.reason(), u.err.Error())
			continue
		default:
			unknown = append(unknown, u.volume)
		}
		why = append(why, u.err.Error())
	}
	if len(why) == 0 {
		return nil
	}
	slices.Sort(names)
	lacks := fmt.Sprintf("unmounted volumes=%v, unattached volumes=%v, failed to process volumes=%v: %s", names, unattached, unknown, strings.Join(why, "; "))
	if slices.ContainsFunc(all, func(u unmounted) bool { return errors.Is(u.err, csi.ErrAttachLimit) }) {
		return &AttachLimitError{lacks}
	}
	m.opts.Events.Event(pod, corev1.EventTypeWarning, "FailedMount", "Unable to attach or mount volumes: "+lacks)
	return nil
}
