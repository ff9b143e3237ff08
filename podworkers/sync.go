package podworkers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers/volumes"
	"minikubelet/runtime"
	"minikubelet/runtime/cri"
	"minikubelet/status"
)

// syncPod brings the pod one step closer to its spec. It returns when to make another step (0: when something happens), and
// an error when it should be tried again.
//
//  1. what runs now
//  2. a static pod waits until no other pod has its name
//  3. the status; a pod that ended, or ran past its deadline, goes on to Terminating
//  4. the mirror pod of a static pod
//  5. the node's network must be up, unless the pod uses the host's
//  6. volumes
//  7. the runtime: sandbox and containers
//  8. probes of what runs now
//  9. the status again
//
// Upstream: pkg/kubelet/kubelet.go SyncPod.
func (w *worker) syncPod(ctx context.Context, pod *corev1.Pod) (signal, time.Duration, error) {
	observed, err := w.current(ctx, pod)
	if err != nil {
		return none, 0, err
	}
	if holder := w.registry.claim(w.lifetime, pod); holder != "" {
		w.waitForName(ctx, pod, holder, observed)
		return none, 0, nil
	}
	if w.waitsFor != "" {
		w.waitsFor, w.failed = "", nil // it has its name now
	}
	if s, err := w.assignDevices(ctx, pod, observed); s != none || err != nil {
		return s, 0, err
	}
	w.trackResize(pod) // part: conditions of a resize, podworkers/resize.go
	if s := w.checkEnd(pod, w.report(pod, observed)); s != none {
		return s, 0, nil
	}
	mirrored := w.ensureMirror(ctx, pod)
	if err := w.opts.Node.NetworkReady(); err != nil && !pod.Spec.HostNetwork {
		w.opts.Events.Eventf(pod, corev1.EventTypeWarning, "NetworkNotReady", "network is not ready: %v", err)
		return none, 0, fmt.Errorf("network is not ready: %w", err)
	}
	err = w.mountVolumes(ctx, pod, observed)
	if full, is := errors.AsType[*volumes.AttachLimitError](err); is {
		return w.refuse(ctx, pod, "VolumeAttachmentLimitExceeded", full), 0, nil
	} else if err != nil {
		return none, 0, err
	}
	w.opts.Volumes.Republish(w.lifetime, pod)
	w.opts.Volumes.Grow(w.lifetime, pod) // part: volume expansion, podworkers/volumes/expand.go

	end := func() {}
	if len(observed.Running()) > 0 { // it is probed, and the results are reported, also while others wait for their images
		w.opts.Probes.Add(w.lifetime, pod)
		end = w.reportMeanwhile(pod, observed)
	}
	result, err := w.opts.Runtime.SyncPod(ctx, w.opts.Volumes.WithGroups(pod), podInputs{w})
	end()
	w.failed = result.Containers
	if ctx.Err() != nil {
		return none, 0, ctx.Err()
	}
	w.opts.Probes.Add(w.lifetime, pod)
	w.trackResize(pod)
	w.resizeFailed(pod, err)
	if now, some := w.opts.Cache.Get(w.uid); some {
		observed = now
	}
	after := w.report(pod, observed)
	if err != nil {
		return none, 0, err
	}
	if s := w.checkEnd(pod, after); s != none {
		return s, 0, nil
	}
	return none, w.nextSync(pod, result.RetryAt, mirrored), nil
}

// mirrorRetry is when a mirror pod that could not be made is tried again.
const mirrorRetry = 5 * time.Second

// ensureMirror keeps a static pod's API object, and tells whether that worked. The pod runs without it too.
func (w *worker) ensureMirror(ctx context.Context, pod *corev1.Pod) bool {
	if !podinfo.IsStatic(pod) || w.opts.Mirror == nil {
		return true
	}
	err := w.opts.Mirror.Ensure(ctx, pod)
	if err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Could not create the mirror pod, will be retried", "after", mirrorRetry)
	}
	return err == nil
}

// waitForName tells that the pod waits for another to end. The end of that wakes it.
func (w *worker) waitForName(ctx context.Context, pod *corev1.Pod, holder types.UID, observed *cri.PodStatus) {
	message := fmt.Sprintf("waiting for pod %s, which has the same name, to end", holder)
	w.failed = map[string]runtime.Failure{}
	for c := range podinfo.Containers(pod) {
		w.failed[c.Name] = runtime.Failure{Reason: "ContainerCreating", Message: message}
	}
	w.report(pod, observed)
	if w.waitsFor != holder {
		w.waitsFor = holder
		klog.FromContext(ctx).Info("The pod waits for another of its name to end", "holderUID", holder)
		w.opts.Events.Event(pod, corev1.EventTypeNormal, "NameInUse", message)
	}
}

// report computes the pod's status from a reading and hands it to the status manager.
func (w *worker) report(pod *corev1.Pod, observed *cri.PodStatus) corev1.PodStatus {
	in := w.statusInputs(pod, observed)
	s := status.Compute(in)
	w.opts.Status.Set(pod, status.HoldBack(s, in))
	w.metrics.running(w.reported, s.Phase, w.seenAt)
	w.reported = s.Phase
	return s
}

// reportMeanwhile reports what probes find while the step does something that takes long, until end is called: a pod that is not
// ready should get no more requests.
func (w *worker) reportMeanwhile(pod *corev1.Pod, observed *cri.PodStatus) (end func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		var first ring
		for {
			select {
			case bell := <-w.wake:
				first = cmp.Or(first, bell)
				w.report(pod, observed)
			case <-stop:
				if first.why != "" { // it may have rung for something else too, which the next step handles
					w.ring(first)
				}
				return
			}
		}
	}()
	return func() {
		close(stop)
		<-done
	}
}

// checkEnd tells whether the pod is over: its containers all ended for good, or its deadline passed.
func (w *worker) checkEnd(pod *corev1.Pod, s corev1.PodStatus) signal {
	if s.Phase == corev1.PodSucceeded || s.Phase == corev1.PodFailed {
		return ended
	}
	if left, limited := untilDeadline(pod, s); limited && left <= 0 {
		w.override = &status.Override{
			Phase: corev1.PodFailed, Reason: "DeadlineExceeded",
			Message: "Pod was active on the node longer than the specified deadline",
		}
		w.opts.Events.Event(pod, corev1.EventTypeNormal, "DeadlineExceeded", w.override.Message)
		return killed
	}
	return none
}

// untilDeadline is the time that activeDeadlineSeconds leaves, and whether there is one.
func untilDeadline(pod *corev1.Pod, s corev1.PodStatus) (time.Duration, bool) {
	if pod.Spec.ActiveDeadlineSeconds == nil || s.StartTime == nil {
		return 0, false
	}
	deadline := s.StartTime.Add(cri.Seconds(*pod.Spec.ActiveDeadlineSeconds))
	return time.Until(deadline), true
}

// mountVolumes mounts everything the pod's containers will see. Errors of volumes that stood before keep no container
// from starting again.
func (w *worker) mountVolumes(ctx context.Context, pod *corev1.Pod, observed *cri.PodStatus) error {
	if observed.ReadySandbox() != nil {
		w.opts.Volumes.Adopt(w.uid)
	}
	if err := w.opts.Volumes.Unsupported(pod); err != nil {
		w.opts.Events.Event(pod, corev1.EventTypeWarning, "FailedMount", err.Error())
		return err
	}
	w.opts.Objects.Register(pod)
	stepCtx, end := cri.Step(ctx, "mountVolumes", pod, cri.Why("containers start when the pod's volumes are there"))
	err := w.opts.Volumes.Mount(stepCtx, pod)
	end(err)
	if err != nil {
		return fmt.Errorf("mount volumes: %w", err)
	}
	return nil
}

// nextSync is the time until something is due that no event announces: a container's back-off, a token's refresh, the
// pod's deadline, another try for its mirror. 0 is for nothing.
func (w *worker) nextSync(pod *corev1.Pod, retryAt time.Time, mirrored bool) time.Duration {
	var due []time.Duration
	if !mirrored {
		due = append(due, mirrorRetry)
	}
	for _, at := range []time.Time{retryAt, w.opts.Volumes.Next(w.uid)} {
		if !at.IsZero() {
			due = append(due, time.Until(at))
		}
	}
	if s, ok := w.opts.Status.Get(w.uid); ok {
		if left, limited := untilDeadline(pod, s); limited {
			due = append(due, left)
		}
	}
	if len(due) == 0 {
		return 0
	}
	return max(slices.Min(due), time.Millisecond)
}
