package probes

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// worker is one probe of one container. Its fields belong to its goroutine.
type worker struct {
	manager   *Manager
	pod       *corev1.Pod
	container *corev1.Container
	kind      Kind
	probe     *corev1.Probe
	cancel    context.CancelFunc
	done      chan struct{}
	wake      chan struct{}

	containerID string
	begun       time.Time // when the container started, with a monotonic reading: setting the clock does not move it
	streak      int32     // equal outcomes in a row
	last        bool      // the outcome of the streak
	onHold      bool      // the container will be restarted; its successor is probed again
}

// run probes until ctx ends. After a restart of the kubelet the first probe waits a random part of its period, so that the
// probes of all pods do not come at once.
func (w *worker) run(ctx context.Context) {
	period := time.Duration(cmp.Or(max(w.probe.PeriodSeconds, 0), 10)) * time.Second
	var first time.Duration
	if time.Since(w.manager.started) < period {
		if c, _ := w.current(); c != nil {
			if _, known := w.manager.Get(c.ID, w.kind); known {
				first = rand.N(period)
			}
		}
	}
	due := time.Now().Add(first)
	timer := time.NewTimer(first)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
			due = time.Now()
		case <-timer.C:
		}
		soon := w.once(ctx)
		due = following(due, time.Now(), soon, period)
		timer.Reset(time.Until(due))
	}
}

// following is when the next probe is due: one period after the last was due, however long that took. If several became due
// meanwhile, one probe is made for all of them. A probe that is due soon comes first.
func following(due, now time.Time, soon, period time.Duration) time.Time {
	if soon > 0 && soon < period {
		return now.Add(soon)
	}
	if late := now.Sub(due); late > period {
		return due.Add(late.Truncate(period))
	}
	return due.Add(period)
}

// current finds the running instance, nil if there is none or it is still starting, and its pod's reading.
func (w *worker) current() (*cri.ContainerStatus, *cri.PodStatus) {
	observed, _ := w.manager.opts.Observed(w.pod.UID)
	if c := observed.Container(w.container.Name); c != nil && c.State == cri.Running && !w.manager.opts.Starting(c.ID) {
		return c, observed
	}
	return nil, observed
}

// once makes one probe, unless the container is not there yet or its initial delay has not passed. It returns when to come
// back if that is sooner than the period.
func (w *worker) once(ctx context.Context) time.Duration {
	c, observed := w.current()
	if c == nil {
		if w.containerID != "" && w.kind == Readiness {
			w.manager.set(ctx, w, false)
		}
		return 0
	}
	if c.ID != w.containerID {
		if w.containerID != "" {
			w.manager.forget(w.containerID, w.kind)
		}
		now := time.Now()
		w.containerID, w.streak, w.onHold = c.ID, 0, false
		w.begun = now.Add(-max(0, now.Sub(c.StartedAt))) // a clock that was set back puts the start ahead
	}
	if w.onHold || w.kind == Startup && w.passed(Startup) {
		return 0
	}
	if wait := time.Duration(w.probe.InitialDelaySeconds)*time.Second - time.Since(w.begun); wait > 0 {
		return wait
	}
	if w.kind != Startup && w.container.StartupProbe != nil && !w.passed(Startup) {
		return 0 // its pass wakes this probe
	}
	start := time.Now()
	outcome := w.try(ctx, observed)
	if ctx.Err() == nil {
		w.manager.metrics.probed(w, outcome, start)
		w.judge(ctx, outcome)
	}
	return 0
}

func (w *worker) passed(kind Kind) bool {
	ok, known := w.manager.Get(w.containerID, kind)
	return known && ok
}

// judge counts equal outcomes in a row. When there are as many as the probe's threshold says, they are the new verdict. A probe that
// could not be made, because the runtime is away for example, says nothing of the container and does not count.
func (w *worker) judge(ctx context.Context, o outcome) {
	w.event(ctx, o)
	if o.err != nil {
		return
	}
	success := o.result != failure
	if w.streak > 0 && w.last == success {
		w.streak++
	} else {
		w.streak, w.last = 1, success
	}
	threshold := w.probe.FailureThreshold
	if success {
		threshold = w.probe.SuccessThreshold
	}
	if w.streak < threshold {
		return
	}
	if !success && w.kind != Readiness {
		w.onHold = true
		w.streak = 0
	}
	w.manager.set(ctx, w, success)
}

// event sends the event of a failed probe.
func (w *worker) event(ctx context.Context, o outcome) {
	log := klog.FromContext(ctx).WithValues("container", w.container.Name, "probe", w.kind)
	object := podinfo.Reference(w.pod, w.container.Name)
	switch {
	case o.err != nil:
		log.V(1).Info("Probe errored", "err", o.err)
		w.manager.opts.Events.Eventf(object, corev1.EventTypeWarning, "Unhealthy", "%s probe errored and resulted in %s state: %v", w.kind, "unknown", o.err)
	case o.result == failure:
		log.V(1).Info("Probe failed", "output", o.output)
		w.manager.opts.Events.Eventf(object, corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %s", w.kind, o.output)
	case o.result == warning:
		log.V(1).Info("Probe warned", "output", o.output)
		w.manager.opts.Events.Eventf(object, corev1.EventTypeWarning, "ProbeWarning", "%s probe warning: %s", w.kind, o.output)
	}
}
