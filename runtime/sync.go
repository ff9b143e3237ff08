package runtime

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/plan"
	"minikubelet/runtime/resize"
	"minikubelet/runtime/spec"
)

// SyncPod brings the runtime to what the pod asks for, as far as it can be brought now:
//
//  1. Refuse what is not supported.
//  2. Take the given reading, or a new one if it cannot be relied on.
//  3. Plan: plan.ComputePodActions.
//  4. End the pod, or single containers, that must not go on; remove leftovers.
//     Then give running containers, and the pod's cgroup, other resources if they were allocated some.
//  5. Make the sandbox.
//  6. Start ephemeral, init and regular containers, one after another.
//  7. Read again. There may be more to do for containers that neither wait nor failed: from 3.
//
// A back-off is not an error: result.RetryAt says when it ends. With an error the result is complete all the same.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go SyncPod
func (r *Runtime) SyncPod(ctx context.Context, pod *corev1.Pod, observed *cri.PodStatus, in Inputs) (SyncResult, error) {
	logger := klog.FromContext(ctx).WithValues("pod", klog.KObj(pod), "podUID", pod.UID)
	result := SyncResult{Observed: observed, Containers: map[string]Failure{}}
	if err := Unsupported(pod); err != nil {
		r.podEvent(pod, corev1.EventTypeWarning, eventFailedValidation, "Error validating pod %s: %v", spec.ReferenceName(pod), err)
		result.Sandbox = &Failure{ReasonUnsupported, err.Error()}
		return result, fmt.Errorf("sync pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	observed, err := r.look(ctx, pod, observed)
	if err != nil {
		return result, fmt.Errorf("sync pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if observed.Name == "" { // the runtime has nothing of the pod
		observed = &cri.PodStatus{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, ObservedAt: observed.ObservedAt}
	}
	result.Observed = observed

	// Each round but the last starts a container. The bound is met only if containers end as fast as they start.
	var failed []error
	for number := 0; ; number++ {
		actions := plan.ComputePodActions(plan.Input{
			Pod: pod, Observed: result.Observed, Verdicts: verdictsOf(in, result.Observed), Ended: r.Ended(result.Observed),
			Resize: resize.Plan(pod, result.Observed, r.actuated(pod)),
		})
		actions.Leave(result.waits)
		if actions.Empty() {
			break
		}
		if number > 4+len(pod.Spec.InitContainers)+len(pod.Spec.Containers) {
			result.retry(r.Clock.Now().Add(time.Second))
			break
		}
		// Who follows the status is to see why all containers begin anew, and that they are gone.
		reset := len(actions.Reset) > 0
		if reset && number > 0 {
			result.retry(r.Clock.Now())
			break
		}
		logger.V(3).Info("Computed pod actions", "actions", actions)
		round := &syncRound{Runtime: r, pod: pod, actions: actions, in: in, result: &result}
		err := round.run(ctx)
		if readErr := r.readAfter(ctx, pod, round, &result); readErr != nil {
			err = errors.Join(err, readErr)
		}
		failed = append(failed, round.failed...)
		if err != nil {
			failed = append(failed, err)
			break
		}
		if reset {
			result.retry(r.Clock.Now())
			break
		}
	}
	if err := errors.Join(failed...); err != nil {
		return result, fmt.Errorf("sync pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return result, nil
}

// readAfter takes the reading that ends a round. For a pod that began with nothing, and so has nothing but what the
// round made, that is one call per container: the sandbox's status is that from its creation. After a pull or a hook that
// is too old to count, since much may have happened meanwhile.
func (r *Runtime) readAfter(ctx context.Context, pod *corev1.Pod, round *syncRound, result *SyncResult) error {
	before := result.Observed
	at := time.Now() // as cri stamps readings
	var observed *cri.PodStatus
	var err error
	switch {
	case !round.touched:
		return nil
	case round.sandbox != nil && !round.slow && len(before.Sandboxes)+len(before.Containers) == 0:
		observed = round.observed.WithSandbox(round.sandbox, at)
		for _, id := range round.made {
			container, readErr := cri.ReadContainer(ctx, r.CRI, id, round.sandbox.GetId())
			if readErr != nil {
				err = readErr
				break
			}
			observed = observed.WithContainer(container, at)
		}
	default:
		if round.observed != nil {
			before = round.observed // which has the new sandbox
		}
		observed, err = cri.RereadPod(ctx, r.CRI, pod.UID, before)
	}
	if err != nil {
		r.note(pod)
		return err
	}
	result.Observed = observed
	r.put(observed)
	return nil
}

// syncRound carries out one plan.
type syncRound struct {
	*Runtime
	pod      *corev1.Pod
	actions  plan.Actions
	in       Inputs
	result   *SyncResult
	touched  bool                         // something was done that a reading would show
	sandbox  *runtimeapi.PodSandboxStatus // made in this round
	made     []string                     // containers made in this round
	observed *cri.PodStatus               // the reading the round began with, and the sandbox it made
	failed   []error                      // of containers that did not start; the others go on
	leave    func()                       // gives up the turn that a new pod has to start; nil for none
	slow     bool                         // a pull or a postStart hook took time after the sandbox was made
}

func (s *syncRound) run(ctx context.Context) error {
	if err := s.settle(ctx); err != nil {
		return err
	}
	if err := s.end(ctx); err != nil {
		return err
	}
	var resized error
	if change := s.actions.Resize; change != nil {
		resized = s.resizer.Apply(ctx, s.pod, s.actions.SandboxID, change)
		s.touched = s.touched || len(change.Memory)+len(change.CPU) > 0
	}
	if ctx.Err() != nil || s.actions.CreateSandbox == "" && len(s.actions.Start) == 0 {
		return resized
	}
	return errors.Join(resized, s.makeAndStart(ctx)) // a resize that failed keeps nobody from starting
}

// settle waits until it is on disk what the pod was given: a kubelet that comes back must not take a spec that changed
// meanwhile for it. A pod that is not resized runs without a record if there can be none; for a resize there must be one.
func (s *syncRound) settle(ctx context.Context) error {
	err := s.Allocation.Settle(ctx, s.pod.UID)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if s.actuated(s.pod) != nil {
		return resize.Failed(err)
	}
	klog.FromContext(ctx).Error(err, "Recording a pod's resources failed, will be retried", "pod", klog.KObj(s.pod), "podUID", s.pod.UID)
	return nil
}

// makeAndStart is steps 5 and 6.
func (s *syncRound) makeAndStart(ctx context.Context) error {
	handler, err := s.Classes.LookupRuntimeHandler(s.pod.Spec.RuntimeClassName)
	if err != nil {
		return s.sandboxFailed(ctx, fmt.Errorf("failed to create sandbox for pod %q: %w", spec.ReferenceName(s.pod), err))
	}
	config, err := s.generatePodSandboxConfig(s.pod, s.actions.Attempt, handler)
	if err != nil {
		return s.sandboxFailed(ctx, err)
	}
	s.observed = s.result.Observed
	if s.actions.CreateSandbox != "" {
		leave, err := s.starts.enter(ctx)
		if err != nil {
			return err
		}
		defer leave()
		s.leave = func() {
			s.slow = true
			leave()
		}
		s.sandbox, err = s.createPodSandbox(ctx, s.pod, config, handler, s.actions.CreateSandbox)
		if s.metrics.sandbox(ctx, err); err != nil {
			return s.sandboxFailed(ctx, err)
		}
		s.touched = true
		s.observed = s.observed.WithSandbox(s.sandbox, s.observed.ObservedAt)
		s.actions.SandboxID = s.sandbox.GetId()
	}
	return s.start(ctx, config, handler)
}

// end is step 4.
func (s *syncRound) end(ctx context.Context) error {
	if s.actions.CreateSandbox != "" && s.actions.SandboxID != "" {
		s.podEvent(s.pod, corev1.EventTypeNormal, eventSandboxChanged, "Pod sandbox changed, it will be killed and re-created.")
	}
	s.touched = s.actions.KillPod != "" || len(s.actions.Reset)+len(s.actions.Kill)+len(s.actions.Remove) > 0
	if s.actions.KillPod != "" {
		if err := s.KillPod(ctx, s.pod, s.result.Observed, nil); err != nil {
			return err
		}
	}
	if err := s.reset(ctx); err != nil {
		return err
	}
	for _, kill := range s.actions.Kill {
		status := s.result.Observed.ContainerByID(kill.ID)
		request := killRequest{
			pod: s.pod, container: spec.FindContainer(s.pod, status), id: kill.ID, podIPs: s.result.Observed.IPs,
			message: kill.Message, reason: kill.Reason,
		}
		if err := s.killContainer(ctx, request, nil); err != nil {
			if ctx.Err() != nil {
				return err
			}
			s.result.fail(kill.Name, Failure{ReasonKillContainer, err.Error()}, time.Time{})
			s.failed = append(s.failed, err)
		}
	}
	s.actions.Leave(s.result.waits) // what could not be ended cannot start anew
	for _, remove := range s.actions.Remove {
		if err := s.removeContainer(ctx, remove.ID); err != nil {
			s.note(s.pod)
			return fmt.Errorf("remove container %s: %w", remove.Name, err)
		}
	}
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
		status := s.result.Observed.ContainerByID(action.ID)
		request := killRequest{
			pod: s.pod, container: spec.FindContainer(s.pod, status), id: action.ID, podIPs: s.result.Observed.IPs,
			message: "killing", reason: "RestartAllContainers", grace: new(int64(0)),
		}
		group.Go(func() { errs[i] = s.killContainer(ctx, request, nil) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, action := range s.actions.Reset {
		if err := s.removeContainer(ctx, action.ID); err != nil {
			s.note(s.pod)
			return fmt.Errorf("remove container %s: %w", action.Name, err)
		}
		s.hooksRun.Delete(action.ID)
	}
	return nil
}

func (r *Runtime) removeContainer(ctx context.Context, id string) error {
	_, err := r.CRI.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	if cri.IsNotFound(err) {
		return nil
	}
	return err
}

func (s *syncRound) sandboxFailed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err() // interrupted, not failed
	}
	s.result.Sandbox = &Failure{ReasonCreateSandbox, text(err)}
	if _, seen := errors.AsType[*statusError](err); !seen {
		s.podEvent(s.pod, corev1.EventTypeWarning, eventFailedCreateSandbox, "Failed to create pod sandbox: %v", err)
	}
	return fmt.Errorf("create sandbox: %w", err)
}

// start is step 6. One container's failure keeps none of the others from starting, unless they wait for it.
func (s *syncRound) start(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) error {
	secrets := s.in.PullSecrets(ctx, s.pod)
	for _, action := range s.actions.Start {
		if s.backingOff(ctx, action) {
			continue
		}
		id, err := s.startContainer(ctx, startJob{
			Start: action, pod: s.pod, observed: s.observed, sandbox: config, sandboxID: s.actions.SandboxID,
			handler: handler, podIPs: s.observed.IPs, secrets: secrets, in: s.in, leave: s.leave,
		})
		s.metrics.container(action.Kind, err)
		if id != "" {
			s.touched, s.made = true, append(s.made, id)
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
	now := s.Clock.Now()
	delay, until := s.crash.wait(s.pod, action.Container, lastExited(s.observed, name), now)
	if !now.Before(until) {
		return false
	}
	klog.FromContext(ctx).V(4).Info("Container is in back-off", "pod", klog.KObj(s.pod), "podUID", s.pod.UID, "containerName", name, "until", until)
	s.containerEvent(s.pod, action.Container, "", corev1.EventTypeWarning, eventBackOff,
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

// Unsupported names the first field of the pod that asks for what this kubelet cannot do. Volumes have their own
// check.
func Unsupported(pod *corev1.Pod) error {
	if len(pod.Spec.ResourceClaims) > 0 {
		return errors.New("spec.resourceClaims: dynamic resource allocation is not supported")
	}
	if os := pod.Spec.OS; os != nil && os.Name != corev1.Linux {
		return fmt.Errorf("spec.os.name: %q cannot run on this node", os.Name)
	}
	for container := range podinfo.AllContainers(pod) {
		field := "container " + container.Name
		if len(container.Resources.Claims) > 0 {
			return fmt.Errorf("%s: resources.claims: dynamic resource allocation is not supported", field)
		}
		if len(container.VolumeDevices) > 0 {
			return fmt.Errorf("%s: volumeDevices: raw block volumes are not supported", field)
		}
		for _, rule := range container.RestartPolicyRules {
			switch rule.Action {
			case corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers:
			default:
				return fmt.Errorf("%s: restartPolicyRules: action %q is not supported", field, rule.Action)
			}
		}
	}
	return nil
}
