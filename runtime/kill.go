package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/cri"
	"minikubelet/runtime/plan"
	"minikubelet/runtime/spec"
)

const (
	// minGracePeriod is what a container gets to end by itself even if its preStop hook has used up the rest.
	minGracePeriod = 2 * time.Second
	// rollbackTimeout bounds calls that go on after their sync was cancelled, beyond the grace period.
	rollbackTimeout = time.Minute
)

// killRequest is one container to end.
type killRequest struct {
	pod       *corev1.Pod
	container *corev1.Container
	id        string
	podIPs    []string
	message   string // of the Killing event; "Stopping container NAME" by default
	reason    string // RestartLiveness or plan.RestartStartup: the probe may have a grace period of its own
	grace     *int64 // seconds, instead of the pod's
}

// KillPod ends all containers of a pod at the same time, each after its preStop hook and within the grace period,
// sidecars after the regular containers and in reverse order, then the sandboxes. It may be called again: what has
// ended is left alone, a preStop hook runs once, and a shorter grace period takes effect. pod may be one that
// OrphanPod rebuilt. gracePeriod, in seconds, replaces the pod's.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go killPodWithSyncResult
func (r *Runtime) KillPod(ctx context.Context, pod *corev1.Pod, observed *cri.PodStatus, gracePeriod *int64) error {
	containers := containersToKill(observed)
	order := newTerminationOrder(pod, containers)
	errs := make([]error, len(containers)+len(observed.Sandboxes))
	var group sync.WaitGroup
	for i, container := range containers {
		group.Go(func() {
			errs[i] = r.killContainer(ctx, killRequest{
				pod: pod, container: spec.FindContainer(pod, container), id: container.ID, podIPs: observed.IPs, grace: gracePeriod,
			}, order)
		})
	}
	group.Wait()
	// The sandboxes stop even if a container did not: the runtime then ends it by force.
	for i, sandbox := range observed.Sandboxes {
		group.Go(func() {
			if err := r.stopSandbox(ctx, sandbox.GetId(), sandbox.GetState()); err != nil {
				errs[len(containers)+i] = fmt.Errorf("stop sandbox: %w", err)
			}
		})
	}
	group.Wait()
	r.opts.Cache.Acted(pod.UID)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("kill pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// Ended reports that nothing of the pod runs or may run, and that the runtime was told to stop each of its sandboxes.
// A sandbox whose process is gone, as after a reboot, still holds its addresses and host ports until then.
func (r *Runtime) Ended(observed *cri.PodStatus) bool {
	if observed == nil {
		return true
	}
	for _, sandbox := range observed.Sandboxes {
		if _, stopped := r.stopped.Load(sandbox.GetId()); !stopped || sandbox.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
			return false
		}
	}
	for _, container := range observed.Containers {
		// The runtime ends by force what is in a sandbox that it stops, so an unknown state says nothing afterwards.
		_, stopped := r.stopped.Load(container.SandboxID)
		if container.State == cri.Running || container.State == cri.Unknown && !stopped {
			return false
		}
	}
	return true
}

// containersToKill are the running ones and those that may be.
func containersToKill(observed *cri.PodStatus) []*cri.ContainerStatus {
	var out []*cri.ContainerStatus
	for _, container := range observed.Containers {
		if container.State == cri.Running || container.State == cri.Unknown {
			out = append(out, container)
		}
	}
	return out
}

// stopSandbox stops a sandbox unless it was stopped already: the runtime would take its network down once more, which
// costs as much as the first time. One that is ready all the same is stopped again.
func (r *Runtime) stopSandbox(ctx context.Context, id string, state runtimeapi.PodSandboxState) error {
	if _, done := r.stopped.Load(id); done && state != runtimeapi.PodSandboxState_SANDBOX_READY {
		return nil
	}
	leave, err := r.ends.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	_, err = r.opts.CRI.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	if err == nil {
		r.stopped.Store(id, true)
	}
	if cri.IsNotFound(err) {
		return nil
	}
	return err
}

// killContainer runs the preStop hook, waits for the container's turn and stops it.
func (r *Runtime) killContainer(ctx context.Context, k killRequest, order *terminationOrder) (err error) {
	defer order.ended(k.id)
	if k.message == "" {
		k.message = "Stopping container " + k.container.Name
	}
	ctx, end := cri.Step(ctx, "killContainer", k.pod, cri.Why(k.message), cri.OfContainer(k.container.Name))
	defer func() { end(err) }()
	logger := klog.FromContext(ctx).WithValues("pod", klog.KObj(k.pod), "podUID", k.pod.UID, "containerName", k.container.Name)
	grace := gracePeriod(k.pod, k.container, k.reason)
	if k.grace != nil {
		grace = cri.Seconds(*k.grace)
	}
	deadline := time.Now().Add(grace)
	_, again := r.killing.LoadOrStore(k.id, true)
	if !again {
		r.containerEvent(k.pod, k.container, k.id, corev1.EventTypeNormal, eventKilling, "%s", k.message)
	}
	if hook := k.container.Lifecycle; hook != nil && hook.PreStop != nil && grace > 0 && !again {
		end := r.preStop(ctx, k, grace)
		defer end()
	}
	if order != nil {
		order.wait(ctx, k.id, deadline)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("kill container %s: %w", k.container.Name, ctx.Err())
	}

	left := max(time.Until(deadline), minGracePeriod).Round(time.Second)
	logger.V(2).Info("Stopping container", "containerID", k.id, "gracePeriod", left)
	_, err = r.opts.CRI.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: k.id, Timeout: int64(left / time.Second)})
	r.opts.Cache.Acted(k.pod.UID)
	if err != nil && !cri.IsNotFound(err) {
		return fmt.Errorf("kill container %s: %w", k.container.Name, err)
	}
	r.killing.Delete(k.id)
	return nil
}

// preStop starts the hook and returns when it has ended or the grace period has. A hook that takes longer goes on until the
// caller calls end, after it has stopped the container.
func (r *Runtime) preStop(ctx context.Context, k killRequest, grace time.Duration) (end func()) {
	logger := klog.FromContext(ctx).WithValues("pod", klog.KObj(k.pod), "podUID", k.pod.UID, "containerName", k.container.Name)
	hookCtx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		hookCtx, end := cri.Step(hookCtx, "preStop", k.pod, cri.Why("the container is to be stopped"))
		_, err := r.runHook(hookCtx, k.pod, k.container, k.id, k.podIPs, k.container.Lifecycle.PreStop)
		end(err)
		if err == nil || ctx.Err() != nil || k.container.Lifecycle.PreStop.Sleep != nil { // a sleep can only be cut short
			return
		}
		logger.Error(err, "PreStop hook failed")
		// What the hook printed may be secret and stays out of the event.
		r.containerEvent(k.pod, k.container, k.id, corev1.EventTypeWarning, eventFailedPreStopHook, "PreStopHook failed")
	}()
	select {
	case <-done:
	case <-ctx.Done():
	case <-time.After(grace):
		logger.V(2).Info("PreStop hook not completed in grace period", "gracePeriod", grace)
	}
	return func() {
		cancel()
		<-done
	}
}

// gracePeriod is how long a container may take to end.
func gracePeriod(pod *corev1.Pod, container *corev1.Container, reason string) time.Duration {
	if s := pod.DeletionGracePeriodSeconds; s != nil {
		return cri.Seconds(*s)
	}
	s := pod.Spec.TerminationGracePeriodSeconds
	if s == nil {
		return minGracePeriod
	}
	probe := map[string]*corev1.Probe{plan.RestartStartup: container.StartupProbe, plan.RestartLiveness: container.LivenessProbe}[reason]
	if probe != nil {
		s = cmp.Or(probe.TerminationGracePeriodSeconds, s)
	}
	return cri.Seconds(*s)
}
