package podworkers

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// terminatePod stops the pod's containers and then its sandbox, within the grace period. An update that shortens the
// grace period cancels it; it is then called again.
//
// Upstream: pkg/kubelet/kubelet.go SyncTerminatingPod.
func (w *worker) terminatePod(ctx context.Context, m mail) (signal, error) {
	if m.kill != nil && m.kill.Override != nil && w.override == nil {
		w.override = m.kill.Override
	}
	observed, err := w.current(ctx, m.pod)
	if err != nil {
		return none, err
	}
	w.report(m.pod, observed)
	w.opts.Probes.StopLivenessAndStartup(w.uid)
	if !w.opts.Runtime.Ended(observed) {
		end := w.reportMeanwhile(m.pod, observed)
		err := w.opts.Runtime.KillPod(ctx, m.pod, observed, &m.grace)
		end()
		if err != nil {
			if ctx.Err() == nil {
				w.opts.Events.Eventf(m.pod, corev1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
			}
			return none, fmt.Errorf("kill the pod: %w", err)
		}
		if observed, err = w.current(ctx, m.pod); err != nil {
			return none, err
		}
		if !observed.Gone() {
			return none, errors.New("containers still run after they were killed")
		}
	}
	w.opts.Probes.Remove(w.uid)
	return stopped, nil
}

// cleanupPod gives back what a pod still holds of which nothing runs: its volumes, its cgroup and its user IDs.
func (w *worker) cleanupPod(ctx context.Context, m mail) (signal, error) {
	observed, err := w.current(ctx, m.pod)
	if err != nil {
		return none, err
	}
	w.report(m.pod, observed)
	if !w.released { // after the last status, and before volumes that cannot be unmounted are in a successor's way
		w.released = true
		w.registry.release(w.name, w.uid)
	}
	if err := w.opts.Volumes.Unmount(ctx, w.uid); err != nil {
		if ctx.Err() == nil {
			w.opts.Events.Event(m.pod, corev1.EventTypeWarning, "FailedUnMount", err.Error())
		}
		return none, fmt.Errorf("unmount volumes: %w", err)
	}
	w.opts.Objects.Unregister(w.uid)
	if err := w.opts.Runtime.RemoveCgroup(w.uid); err != nil {
		return none, fmt.Errorf("remove the pod's cgroup: %w", err)
	}
	if err := w.opts.Runtime.ReleaseIDs(w.uid); err != nil {
		return none, err
	}
	return cleaned, nil
}

// finishPod lets the API object of a deleted pod go, and forgets the pod when no source has it any more. The containers of
// a pod that merely ended stay for their logs, and those of one that has come back meanwhile so that their successors
// count as restarts.
func (w *worker) finishPod(ctx context.Context, m mail) (signal, error) {
	if err := w.endLate(ctx, m); err != nil {
		return none, err
	}
	if !m.removed && m.pod.DeletionTimestamp == nil {
		return none, nil
	}
	if !w.emptied {
		if err := w.empty(ctx, m.pod); err != nil {
			return none, err
		}
		w.emptied = true
		if !m.removed {
			w.opts.Status.Finish(m.pod)
		}
	}
	if !m.removed {
		return none, nil
	}
	w.opts.Status.Forget(w.uid)
	return forgotten, nil
}

// endLate ends a sandbox that came after the pod's end: the step that asked for it was cancelled, and the runtime made it all the same.
func (w *worker) endLate(ctx context.Context, m mail) error {
	observed, err := w.current(ctx, m.pod)
	if err != nil || observed.Gone() {
		return err
	}
	if err := w.opts.Runtime.KillPod(ctx, m.pod, observed, &m.grace); err != nil {
		return fmt.Errorf("kill what came late: %w", err)
	}
	return w.opts.Runtime.RemoveCgroup(w.uid)
}

// comesBack tells whether the removed pod is to start again, as a static pod does whose manifest was put back, and all its
// containers with it.
func (w *worker) comesBack() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next != nil && w.next.Kill == nil && w.next.Pod.Spec.RestartPolicy == corev1.RestartPolicyAlways
}

// empty removes what the runtime, the disk and the cache still have of a pod. Of a pod that comes back only the disk's part
// is removed.
func (w *worker) empty(ctx context.Context, pod *corev1.Pod) error {
	comesBack := w.comesBack()
	if !comesBack {
		if err := w.removeContainers(ctx, pod); err != nil {
			return err
		}
	}
	// A record of the pod's resources that is still being written would make the directory again, so the writing is waited
	// for. A record that could not be written does no harm.
	_ = w.opts.Runtime.Allocation().Save(ctx, w.uid)
	if err := w.opts.Volumes.RemovePod(ctx, w.uid); err != nil {
		return fmt.Errorf("remove the pod's directory: %w", err)
	}
	if !comesBack {
		w.opts.Cache.Delete(w.uid)
		w.opts.Runtime.Allocation().Forget(w.uid)
	}
	return nil
}

// emptyTries is how often the runtime is asked to remove the pod's containers before the pod goes without that.
const emptyTries = 5

// removeContainers removes the pod's containers and sandboxes from the runtime. A runtime may fail at this until it is started
// again: containerd does when the kubelet was killed while it started a container. Nothing of the pod runs then, so after
// emptyTries its API object goes all the same, and garbage collection tries on.
func (w *worker) removeContainers(ctx context.Context, pod *corev1.Pod) error {
	err := w.opts.Runtime.RemovePod(ctx, w.uid)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("remove the pod's containers: %w", err)
	if w.failures < emptyTries || ctx.Err() != nil {
		return err
	}
	klog.FromContext(ctx).Error(err, "The pod goes without its containers' removal, garbage collection tries on")
	w.opts.Events.Event(pod, corev1.EventTypeWarning, "FailedRemoveContainers", err.Error())
	return nil
}
