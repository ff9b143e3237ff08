package runtime

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/plan"
	"minikubelet/runtime/resize"
	"minikubelet/runtime/spec"
)

// syncRound carries out one plan.
type syncRound struct {
	runtime  *Runtime
	pod      *corev1.Pod
	actions  plan.Actions
	observed *cri.PodStatus // what the plan was made from
	in       Inputs
	result   *SyncResult
	stopped  map[string]bool // IDs of containers that this sync ended
	config   *runtimeapi.PodSandboxConfig
	handler  string          // runtime handler of the pod's class
	secrets  []corev1.Secret // for pulls
	leave    func()          // gives up the pod's turn to start, before what takes long
	started  []string        // IDs of containers
	failed   []error         // of containers that could not be ended, removed or started; the others go on
	slow     bool            // a pull or a postStart hook took time, in which much may have happened
}

func (s *syncRound) run(ctx context.Context) error {
	if err := s.saveAllocation(ctx); err != nil {
		return err
	}
	if err := s.end(ctx); err != nil {
		return err
	}
	var resized error
	if change := s.actions.Resize; change != nil {
		resized = s.runtime.resizer.Apply(ctx, s.pod, s.actions.SandboxID, change)
		if len(change.Memory)+len(change.CPU) > 0 {
			s.runtime.opts.Cache.Acted(s.pod.UID)
		}
	}
	if ctx.Err() != nil || s.actions.CreateSandbox == "" && len(s.actions.Start) == 0 {
		return resized
	}
	// A resize that failed keeps no container from starting.
	err := errors.Join(resized, s.makeAndStart(ctx))
	return errors.Join(err, s.read(ctx))
}

// saveAllocation waits until it is on disk what the pod was given: a kubelet that starts later must not take a spec that has changed
// meanwhile for it. A pod that is not resized runs without a record if there can be none; for a resize there must be one.
func (s *syncRound) saveAllocation(ctx context.Context) error {
	err := s.runtime.opts.Allocation.Save(ctx, s.pod.UID)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if s.runtime.actuated(s.pod) != nil {
		return resize.Failed(err)
	}
	klog.FromContext(ctx).Error(err, "Recording a pod's resources failed, will be retried", "pod", klog.KObj(s.pod), "podUID", s.pod.UID)
	return nil
}

// makeAndStart is steps 5 and 6 of SyncPod.
func (s *syncRound) makeAndStart(ctx context.Context) error {
	var err error
	if s.handler, err = s.runtime.handlerOf(s.pod, s.observed); err != nil {
		return s.sandboxFailed(ctx, fmt.Errorf("failed to create sandbox for pod %q: %w", spec.ReferenceName(s.pod), err))
	}
	if s.config, err = s.runtime.generatePodSandboxConfig(s.pod, s.actions.Attempt, s.handler); err != nil {
		return s.sandboxFailed(ctx, err)
	}
	leave := func() {}
	if s.actions.CreateSandbox != "" {
		if leave, err = s.runtime.starts.enter(ctx); err != nil {
			return err
		}
		defer leave()
		sandbox, err := s.runtime.createPodSandbox(ctx, s.pod, s.config, s.handler, s.actions.CreateSandbox)
		if s.runtime.metrics.sandbox(ctx, err); err != nil {
			return s.sandboxFailed(ctx, err)
		}
		s.observed, s.actions.SandboxID = s.observed.WithSandbox(sandbox, s.observed.ObservedAt), sandbox.GetId()
	}
	s.leave = func() { s.slow = true; leave() }
	return s.start(ctx)
}

// read tells the cache of the containers that were started. Mostly an event has done so; if not, each is asked for. If a pull or a
// hook took time, in which anything may have happened, all of the pod is read when the cache is next asked for it.
func (s *syncRound) read(ctx context.Context) error {
	cache, uid := s.runtime.opts.Cache, s.pod.UID
	if s.slow {
		cache.Acted(uid)
	}
	for _, id := range s.started {
		observed, current := cache.IfCurrent(uid)
		if !current {
			return nil
		}
		if c := observed.ContainerByID(id); c != nil && c.HasStarted() {
			continue
		}
		at := time.Now()
		container, err := cri.ReadContainer(ctx, s.runtime.opts.CRI, id, s.actions.SandboxID)
		if err != nil {
			cache.Acted(uid)
			return err
		}
		cache.Merge((&cri.PodStatus{UID: uid, Namespace: s.pod.Namespace, Name: s.pod.Name}).WithContainer(container, at))
	}
	return nil
}

// end is step 4 of SyncPod, but for the resize.
func (s *syncRound) end(ctx context.Context) error {
	if s.actions.CreateSandbox != "" && s.actions.SandboxID != "" {
		s.runtime.podEvent(s.pod, corev1.EventTypeNormal, eventSandboxChanged, "Pod sandbox changed, it will be killed and re-created.")
	}
	if s.actions.KillPod != "" {
		if err := s.runtime.KillPod(ctx, s.pod, s.observed, nil); err != nil {
			return err
		}
	}
	if err := s.reset(ctx); err != nil {
		return err
	}
	for _, kill := range s.actions.Kill {
		status := s.observed.ContainerByID(kill.ID)
		request := killRequest{
			pod: s.pod, container: spec.FindContainer(s.pod, status), id: kill.ID, podIPs: s.observed.IPs,
			message: kill.Message, reason: kill.Reason,
		}
		if err := s.runtime.killContainer(ctx, request, nil); err != nil {
			if ctx.Err() != nil {
				return err
			}
			s.result.fail(kill.Name, Failure{ReasonKillContainer, err.Error()}, time.Time{})
			s.failed = append(s.failed, err)
			continue
		}
		s.stopped[kill.ID] = true
	}
	s.actions.Leave(s.result.waits) // what could not be ended cannot start anew
	for _, remove := range s.actions.Remove {
		err := s.runtime.removeContainer(ctx, remove.ID)
		s.runtime.opts.Cache.Acted(s.pod.UID)
		if err != nil && ctx.Err() != nil {
			return err
		}
		if err != nil {
			err = fmt.Errorf("remove container %s: %w", remove.Name, err)
			s.result.fail(remove.Name, Failure{ReasonCreateContainer, err.Error()}, time.Time{})
			s.failed = append(s.failed, err)
		}
	}
	s.actions.Leave(s.result.waits) // what could not be removed cannot start anew either
	return nil
}

// reset ends, without a grace period, and removes what the plan names. Logs stay until the pod goes.
func (s *syncRound) reset(ctx context.Context) error {
	errs := make([]error, len(s.actions.Reset))
	var group sync.WaitGroup
	for i, action := range s.actions.Reset {
		if !action.Kill {
			continue
		}
		status := s.observed.ContainerByID(action.ID)
		request := killRequest{
			pod: s.pod, container: spec.FindContainer(s.pod, status), id: action.ID, podIPs: s.observed.IPs,
			message: "killing", reason: "RestartAllContainers", grace: new(int64(0)),
		}
		group.Go(func() { errs[i] = s.runtime.killContainer(ctx, request, nil) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, action := range s.actions.Reset {
		err := s.runtime.removeContainer(ctx, action.ID)
		s.runtime.opts.Cache.Acted(s.pod.UID)
		if err != nil {
			return fmt.Errorf("remove container %s: %w", action.Name, err)
		}
	}
	return nil
}

func (r *Runtime) removeContainer(ctx context.Context, id string) error {
	_, err := r.opts.CRI.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	if err != nil && !cri.IsNotFound(err) {
		return err
	}
	r.killing.Delete(id)
	r.starting.Delete(id)
	return nil
}

func (s *syncRound) sandboxFailed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err() // interrupted, not failed
	}
	if _, seen := errors.AsType[*statusError](err); !seen {
		s.runtime.podEvent(s.pod, corev1.EventTypeWarning, eventFailedCreateSandbox, "Failed to create pod sandbox: %v", err)
	}
	return fmt.Errorf("create sandbox: %w", err)
}

// start is step 6 of SyncPod. One container's failure keeps none of the others from starting, unless they wait for it.
func (s *syncRound) start(ctx context.Context) error {
	s.secrets = s.in.PullSecrets(ctx, s.pod)
	for _, action := range s.actions.Start {
		if s.backingOff(ctx, action) {
			continue
		}
		id, err := s.runtime.startContainer(ctx, startJob{action, s})
		s.runtime.metrics.container(action.Kind, err)
		if id != "" {
			s.started = append(s.started, id)
		}
		if err == nil {
			continue
		}
		var failed *containerError
		if !errors.As(err, &failed) {
			return err
		}
		s.result.fail(action.Container.Name, failed.Failure, failed.retryAt)
		if failed.retryAt.IsZero() {
			s.failed = append(s.failed, fmt.Errorf("start %s %s: %w", action.Kind, action.Container.Name, err))
		}
		if action.Kind == plan.Init && !podinfo.IsSidecar(action.Container) {
			break
		}
	}
	return nil
}

// backingOff reports, with event and result, that a container ended too lately to be started again.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go doBackOff
func (s *syncRound) backingOff(ctx context.Context, action plan.Start) bool {
	name := action.Container.Name
	now := time.Now()
	delay, until := s.runtime.crash.wait(s.pod, action.Container, lastExited(s.observed, name), now)
	if !now.Before(until) {
		return false
	}
	klog.FromContext(ctx).V(4).Info("Container is in back-off", "pod", klog.KObj(s.pod), "podUID", s.pod.UID, "containerName", name, "until", until)
	s.runtime.containerEvent(s.pod, action.Container, "", corev1.EventTypeWarning, eventBackOff,
		"Back-off restarting failed container %s in pod %s", name, spec.ReferenceName(s.pod))
	message := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", delay, name, spec.ReferenceName(s.pod))
	cri.Mark(ctx, "backOff", s.pod, message)
	s.result.fail(name, Failure{ReasonCrashLoopBackOff, message}, until)
	return true
}

func lastExited(observed *cri.PodStatus, name string) *cri.ContainerStatus {
	for _, status := range observed.Containers {
		if status.Name == name && status.State == cri.Exited {
			return status
		}
	}
	return nil
}
