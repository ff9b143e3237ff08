package resize

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/allocation"
	"minikubelet/runtime/cgroups"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/spec"
)

// Error is why a pod did not get what it was allocated. It is tried again.
type Error struct{ error }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.error }

// Resizer carries out changes.
type Resizer struct {
	CRI        *cri.Client
	Cgroups    *cgroups.Manager
	Allocation *allocation.Store
	Node       *spec.Node
}

// Apply gives the pod's cgroup and its running containers what the pod was allocated, memory first. A cgroup that grows does
// so before what is in it, one that shrinks after it. It stops at the first error, and what was done stays done.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go doPodResizeAction
func (r *Resizer) Apply(ctx context.Context, pod *corev1.Pod, sandboxID string, change *Change) error {
	run := &run{resizer: r, pod: pod, sandboxID: sandboxID, change: change, wanted: r.Cgroups.PodSize(pod)}
	err := run.all(ctx)
	if err == nil {
		err = r.Allocation.SetActuated(ctx, pod)
	}
	if err != nil {
		return &Error{err}
	}
	klog.FromContext(ctx).V(2).Info("Resized the pod", "pod", klog.KObj(pod), "podUID", pod.UID, "resized", change.String())
	return nil
}

// run is one call of Apply.
type run struct {
	resizer         *Resizer
	pod             *corev1.Pod
	sandboxID       string
	change          *Change
	wanted, current cgroups.Size
}

func (r *run) all(ctx context.Context) (err error) {
	if r.current, err = r.resizer.Cgroups.ReadPodSize(r.pod); err != nil {
		return err
	}
	if err := r.checkMemory(ctx); err != nil {
		return err
	}
	steps := []step{{cgroups.Size{Memory: r.wanted.Memory}, compare(r.current.Memory, r.wanted.Memory)}}
	if err := r.each(ctx, corev1.ResourceMemory, r.change.Memory, steps); err != nil {
		return err
	}
	var shares int
	if r.current.Shares != nil && r.wanted.Shares != nil {
		shares = compare(new(int64(*r.current.Shares)), new(int64(*r.wanted.Shares)))
	}
	// Growing, the limit goes first, and shrinking last: requests never exceed it.
	steps = []step{
		{cgroups.Size{Quota: r.wanted.Quota}, compare(r.current.Quota, r.wanted.Quota)},
		{cgroups.Size{Shares: r.wanted.Shares}, shares},
	}
	return r.each(ctx, corev1.ResourceCPU, r.change.CPU, steps)
}

// step is one change of the pod's cgroup: to more (above zero), to less, or to the same.
type step struct {
	size   cgroups.Size
	change int
}

// compare returns 1 if after is more than before, -1 if it is less; below zero is no limit, nil is left alone.
func compare(before, after *int64) int {
	if before == nil || after == nil {
		return 0
	}
	least := func(v int64) int64 {
		if v < 0 {
			return math.MaxInt64
		}
		return v
	}
	switch a, b := least(*before), least(*after); {
	case a < b:
		return 1
	case a > b:
		return -1
	}
	return 0
}

// each resizes for one resource: the pod's cgroup if it grows, the containers, the pod's cgroup if it shrinks.
func (r *run) each(ctx context.Context, name corev1.ResourceName, containers []Container, steps []step) error {
	for _, step := range steps {
		if step.change > 0 {
			if err := r.resizePod(ctx, step.size); err != nil {
				return err
			}
		}
	}
	for i := range containers {
		if err := r.resizeContainer(ctx, name, &containers[i]); err != nil {
			return fmt.Errorf("resize %s of container %s: %w", name, containers[i].Spec.Name, err)
		}
	}
	for i := range steps {
		if step := steps[len(steps)-1-i]; step.change < 0 {
			if err := r.resizePod(ctx, step.size); err != nil {
				return err
			}
		}
	}
	return nil
}

// resizePod tells the runtime, which may refuse, and sets the cgroup.
func (r *run) resizePod(ctx context.Context, size cgroups.Size) error {
	after := r.current
	if size.Memory != nil {
		after.Memory = size.Memory
	}
	if size.Quota != nil {
		after.Quota = size.Quota
	}
	if size.Shares != nil {
		after.Shares = size.Shares
	}
	if err := r.updateSandbox(ctx, after); err != nil {
		return err
	}
	if err := r.resizer.Cgroups.ResizePod(r.pod, size); err != nil {
		return errors.Join(err, r.updateSandbox(ctx, r.current))
	}
	r.current = after
	return nil
}

// updateSandbox tells the runtime the pod's size, for its plugins. Few runtimes know the call.
func (r *run) updateSandbox(ctx context.Context, size cgroups.Size) error {
	resources, overhead := r.resizer.Node.SandboxResources(r.pod)
	take := func(to, from *int64, less int64) {
		if from != nil {
			*to = max(*from, 0)
			*to -= min(less, *to)
		}
	}
	take(&resources.MemoryLimitInBytes, size.Memory, overhead.GetMemoryLimitInBytes())
	take(&resources.CpuQuota, size.Quota, overhead.GetCpuQuota())
	if size.Shares != nil {
		take(&resources.CpuShares, new(int64(*size.Shares)), overhead.GetCpuShares())
	}
	_, err := r.resizer.CRI.Runtime.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: r.sandboxID, Overhead: overhead, Resources: resources,
	})
	code := status.Code(err)
	// Before containerd 2.3 the code was Unknown.
	if err == nil || code == codes.Unimplemented || code == codes.Unknown && strings.Contains(err.Error(), "not implemented") {
		return nil
	}
	return fmt.Errorf("tell the runtime of the pod's new size: %w", err)
}

// resizeContainer updates one container as to one resource, the other staying as it is.
func (r *run) resizeContainer(ctx context.Context, name corev1.ResourceName, c *Container) error {
	container, pod := *c.Spec, *r.pod
	if name == corev1.ResourceMemory { // CPU, the second, comes with memory as it is by then
		container.Resources = mixed(name, c.From, c.Spec.Resources)
		if r.change.From != nil && r.change.To != nil {
			pod.Spec.Resources = new(mixed(name, *r.change.From, *r.change.To))
		}
	}
	_, err := r.resizer.CRI.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: c.ID, Linux: r.resizer.Node.ContainerResources(&pod, &container),
	})
	if err != nil {
		return err
	}
	return r.resizer.Allocation.SetContainerActuated(ctx, r.pod.UID, container.Name, container.Resources)
}

// mixed is before, but after as to one resource.
func mixed(name corev1.ResourceName, before, after corev1.ResourceRequirements) corev1.ResourceRequirements {
	out := *before.DeepCopy()
	mix := func(to *corev1.ResourceList, from corev1.ResourceList) {
		amount, ok := from[name]
		if !ok {
			delete(*to, name)
			return
		}
		if *to == nil {
			*to = corev1.ResourceList{}
		}
		(*to)[name] = amount
	}
	mix(&out.Requests, after.Requests)
	mix(&out.Limits, after.Limits)
	return out
}

// checkMemory refuses a memory limit below what is in use: the kernel would kill for it, or refuse half way.
func (r *run) checkMemory(ctx context.Context) error {
	var errs []error
	if compare(r.current.Memory, r.wanted.Memory) < 0 {
		if usage, err := r.resizer.Cgroups.PodMemoryUsage(r.pod); err != nil {
			errs = append(errs, err)
		} else if usage >= *r.wanted.Memory {
			errs = append(errs, fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", *r.wanted.Memory, usage))
		}
	}
	for i := range r.change.Memory {
		c := &r.change.Memory[i]
		before := amountsOf(corev1.ResourceMemory, r.change.From, c.From).limit
		after := amountsOf(corev1.ResourceMemory, r.change.To, c.Spec.Resources).limit
		if after == 0 || before != 0 && after >= before {
			continue
		}
		stats, err := r.resizer.CRI.Runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: c.ID})
		switch usage := stats.GetStats().GetMemory().GetUsageBytes(); {
		case err != nil:
			errs = append(errs, fmt.Errorf("read memory usage of container %q: %w", c.Spec.Name, err))
		case usage == nil:
			errs = append(errs, fmt.Errorf("missing container %q memory usage", c.Spec.Name))
		case usage.Value >= uint64(after):
			errs = append(errs, fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", c.Spec.Name, after, usage.Value))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("cannot decrease memory limits: %w", errors.Join(errs...))
}

// PodResources are what the pod's cgroup gives it now: while a resize is under way, what it had before.
func (r *Resizer) PodResources(pod *corev1.Pod) *corev1.ResourceRequirements {
	if lagging, some := r.Allocation.Actuated(pod.UID); some {
		before := allocation.Resources{Pod: pod.Spec.Resources, Containers: lagging.Containers}
		if lagging.Pod != nil {
			before.Pod = lagging.Pod
		}
		pod, _ = before.Apply(pod)
	}
	requests, limits := r.Cgroups.Resources(r.Cgroups.PodSize(pod))
	if memory, ok := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})[corev1.ResourceMemory]; ok {
		requests[corev1.ResourceMemory] = memory
	}
	return &corev1.ResourceRequirements{Requests: requests, Limits: limits}
}

// Failed marks an error as why a pod did not get what it was allocated.
func Failed(err error) error { return &Error{err} }
