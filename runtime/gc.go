package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"minikubelet/runtime/cri"
)

// GarbageCollect removes what is not needed any more: of a known pod the dead containers but the newest of each
// name, with their logs, and the ended sandboxes but the newest; of an unknown one all that has ended, and its log
// directory and cgroup. Call it only when every source has told its pods. Pods that run and are unknown are ended by their
// worker, not here.
func (r *Runtime) GarbageCollect(ctx context.Context, known func(types.UID) bool) (err error) {
	ctx, end := cri.Step(ctx, "Containers/GarbageCollect", nil)
	defer func() { end(err) }()
	containers, sandboxes, err := r.list(ctx, nil)
	if err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	left, err := r.removeGarbage(ctx, containers, sandboxes, known)
	errs := []error{err}
	inUse := map[types.UID]bool{}
	for _, container := range left {
		inUse[podUID(container.GetLabels())] = true
	}
	errs = append(errs, r.removeLogs(func(uid types.UID) bool { return !known(uid) && !inUse[uid] }), r.removeDeadLinks(ctx))
	for _, sandbox := range sandboxes {
		inUse[podUID(sandbox.GetLabels())] = true // also one just removed: the next time will do
	}
	errs = append(errs, r.removeCgroups(func(uid types.UID) bool { return !known(uid) && !inUse[uid] }))
	errs = append(errs, r.opts.UserNamespaces.Retain(func(uid types.UID) bool { return known(uid) || inUse[uid] }))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	return nil
}

// DeleteUnusedContainers removes what GarbageCollect would, and of ended pods that still have their API object all
// containers, with their logs, and all sandboxes. It is for a node that runs out of disk.
func (r *Runtime) DeleteUnusedContainers(ctx context.Context, ended func(types.UID) bool) error {
	containers, sandboxes, err := r.list(ctx, nil)
	if err == nil {
		_, err = r.removeGarbage(ctx, containers, sandboxes, func(uid types.UID) bool { return !ended(uid) })
	}
	if err != nil {
		return fmt.Errorf("delete unused containers: %w", err)
	}
	return nil
}

// stopUnknown stops a container that may be running, with the grace period that it was made with.
func (r *Runtime) stopUnknown(ctx context.Context, container *runtimeapi.Container) error {
	grace, err := strconv.ParseInt(container.GetAnnotations()[cri.AnnotationPodTerminationGrace], 10, 64)
	least := int64(minGracePeriod / time.Second)
	if err != nil || grace < least {
		grace = least
	}
	_, err = r.opts.CRI.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: container.GetId(), Timeout: grace})
	if err != nil && !cri.IsNotFound(err) {
		return fmt.Errorf("stop container %s, which is in an unknown state: %w", container.GetMetadata().GetName(), err)
	}
	return nil
}

// removeGarbage removes dead containers and sandboxes, and returns the containers that are left.
func (r *Runtime) removeGarbage(ctx context.Context, containers []*runtimeapi.Container, sandboxes []*runtimeapi.PodSandbox, known func(types.UID) bool) ([]*runtimeapi.Container, error) {
	var errs []error
	gone := map[string]bool{}
	for _, container := range garbageContainers(containers, known) {
		var err error
		if s := container.GetState(); s != cri.Exited && s != cri.Created {
			err = r.stopUnknown(ctx, container)
		}
		if err == nil {
			err = r.removeDead(ctx, container)
		}
		gone[container.GetId()] = err == nil
		errs = append(errs, err)
		if err == nil {
			errs = append(errs, r.removeContainerLog(container))
		}
	}
	left := slices.DeleteFunc(containers, func(c *runtimeapi.Container) bool { return gone[c.GetId()] })
	for _, sandbox := range garbageSandboxes(sandboxes, left, known) {
		errs = append(errs, r.removeSandbox(ctx, sandbox))
	}
	return left, errors.Join(errs...)
}

// removeCgroups removes the cgroups of the pods picked. It picks after listing them: a pod whose cgroup is made meanwhile is known
// by then.
func (r *Runtime) removeCgroups(pick func(types.UID) bool) error {
	uids, err := r.opts.Cgroups.Pods()
	if err != nil {
		return err
	}
	var errs []error
	for _, uid := range uids {
		if pick(uid) {
			errs = append(errs, r.opts.Cgroups.RemovePod(uid))
		}
	}
	return errors.Join(errs...)
}

func podUID(labels map[string]string) types.UID {
	return types.UID(labels[kubelettypes.KubernetesPodUIDLabel])
}

// garbageContainers picks the dead containers to remove. One without a pod is not ours.
func garbageContainers(all []*runtimeapi.Container, known func(types.UID) bool) []*runtimeapi.Container {
	newestFirst := slices.Clone(all)
	slices.SortStableFunc(newestFirst, func(a, b *runtimeapi.Container) int {
		return cri.Newer(a.GetMetadata().GetAttempt(), b.GetMetadata().GetAttempt(), a.GetCreatedAt(), b.GetCreatedAt())
	})
	kept := map[[2]string]bool{}
	var out []*runtimeapi.Container
	for _, container := range newestFirst {
		uid := podUID(container.GetLabels())
		if uid == "" || container.GetState() == cri.Running {
			continue
		}
		if known(uid) && container.GetState() != cri.Exited {
			continue // created or unknown: its pod's worker decides, and may remove it
		}
		key := [2]string{string(uid), container.GetMetadata().GetName()}
		if known(uid) && !kept[key] {
			kept[key] = true
			continue
		}
		out = append(out, container)
	}
	return out
}

// garbageSandboxes picks the ended, empty sandboxes to remove.
func garbageSandboxes(all []*runtimeapi.PodSandbox, containers []*runtimeapi.Container, known func(types.UID) bool) []*runtimeapi.PodSandbox {
	used := map[string]bool{}
	for _, container := range containers {
		used[container.GetPodSandboxId()] = true
	}
	newest := map[types.UID]uint32{}
	for _, sandbox := range all {
		uid := types.UID(sandbox.GetMetadata().GetUid())
		newest[uid] = max(newest[uid], sandbox.GetMetadata().GetAttempt())
	}
	var out []*runtimeapi.PodSandbox
	for _, sandbox := range all {
		uid := types.UID(sandbox.GetMetadata().GetUid())
		if podUID(sandbox.GetLabels()) != uid || used[sandbox.GetId()] || sandbox.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
			continue
		}
		if known(uid) && sandbox.GetMetadata().GetAttempt() == newest[uid] {
			continue
		}
		out = append(out, sandbox)
	}
	return out
}

// list lists the containers and sandboxes that have the labels.
func (r *Runtime) list(ctx context.Context, labels map[string]string) ([]*runtimeapi.Container, []*runtimeapi.PodSandbox, error) {
	containers, err := r.opts.CRI.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: labels}})
	if err != nil {
		return nil, nil, err
	}
	sandboxes, err := r.opts.CRI.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: labels}})
	if err != nil {
		return nil, nil, err
	}
	return containers.GetContainers(), sandboxes.GetItems(), nil
}
