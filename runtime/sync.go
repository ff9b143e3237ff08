package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/plan"
	"minikubelet/runtime/resize"
	"minikubelet/runtime/spec"
)

// SyncPod brings the runtime to what the pod asks for, as far as it can be brought now:
//
//  1. Refuse what is not supported.
//  2. Take the newest reading.
//  3. Plan: plan.ComputePodActions.
//  4. End the pod, or single containers, that must not go on; remove leftovers.
//     Then give running containers, and the pod's cgroup, other resources if they were allocated some.
//  5. Make the sandbox.
//  6. Start ephemeral, init and regular containers, one after another.
//  7. There may be more to do for containers that neither wait nor failed: from 2.
//
// A back-off is not an error: result.RetryAt says when it ends. With an error the result is complete all the same. What
// the runtime has afterwards is in the cache.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go SyncPod
func (r *Runtime) SyncPod(ctx context.Context, pod *corev1.Pod, in Inputs) (SyncResult, error) {
	result := SyncResult{Containers: map[string]Failure{}}
	if err := Unsupported(pod); err != nil {
		r.podEvent(pod, corev1.EventTypeWarning, eventFailedValidation, "Error validating pod %s: %v", spec.ReferenceName(pod), err)
		return result, fmt.Errorf("sync pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if err := r.syncRounds(ctx, pod, in, &result); err != nil {
		return result, fmt.Errorf("sync pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return result, nil
}

// syncRounds plans and carries out plans until the plan made from the newest reading is empty. It gives up after more rounds than
// it takes to start each container once: containers that end as fast as they start would go on for ever.
func (r *Runtime) syncRounds(ctx context.Context, pod *corev1.Pod, in Inputs, result *SyncResult) error {
	most := 4 + len(pod.Spec.InitContainers) + len(pod.Spec.Containers)
	var failed []error
	stopped := map[string]bool{} // IDs of containers
	for number := 0; ; number++ {
		observed, err := r.opts.Cache.Current(ctx, pod)
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		actions := plan.ComputePodActions(plan.Input{
			Pod: pod, Observed: observed, Verdicts: r.verdicts(in, observed), Ended: r.Ended(observed),
			Resize: resize.Plan(pod, observed, r.actuated(pod)),
		})
		actions.Leave(result.waits)
		// The runtime said that these have stopped. It may say all the same that it does not know their state.
		actions.Kill = slices.DeleteFunc(actions.Kill, func(k plan.Kill) bool { return stopped[k.ID] })
		if actions.Empty() {
			return errors.Join(failed...)
		}
		if number > most {
			result.retry(time.Now().Add(time.Second))
			return errors.Join(failed...)
		}
		// When all containers begin anew, the status has to say so, and then that they are gone. So the sync ends before
		// that, and after it.
		reset := len(actions.Reset) > 0
		if reset && number > 0 {
			result.retry(time.Now())
			return errors.Join(failed...)
		}
		klog.FromContext(ctx).V(3).Info("Computed pod actions", "pod", klog.KObj(pod), "podUID", pod.UID, "actions", actions)
		round := &syncRound{runtime: r, pod: pod, actions: actions, observed: observed, in: in, result: result, stopped: stopped}
		err = round.run(ctx)
		failed = append(append(failed, round.failed...), err)
		if reset {
			result.retry(time.Now())
		}
		// A pod that is over ends the sync: its status has to say so before the sandbox, which is gone, counts as one to make anew.
		over := actions.KillPod != "" && actions.CreateSandbox == ""
		if err != nil || reset || over {
			_, err := r.opts.Cache.Current(ctx, pod) // the status is to show what the round did
			return errors.Join(append(failed, err)...)
		}
	}
}
