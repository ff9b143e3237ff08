package devices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	podinfo "minikubelet/config/pod"
)

// Allocate assigns devices to all containers of a pod that ask for some, as the node admits it. The error is the reason to
// refuse the pod; what containers of it got until then is free when the pod is no longer active.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go Allocate, through pkg/kubelet/cm/topologymanager/scope.go admitPolicyNone.
func (m *Manager) Allocate(ctx context.Context, pod *corev1.Pod) error {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if err := m.allocate(ctx, pod, &list[i]); err != nil {
				return fmt.Errorf("Allocate failed due to %w, which is unexpected", err) //nolint:staticcheck,revive // upstream's words, which users search for
			}
		}
	}
	return nil
}

// allocate assigns devices to one container and records them.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go allocateContainerResources.
func (m *Manager) allocate(ctx context.Context, pod *corev1.Pod, c *corev1.Container) error {
	given := false
	for _, name := range m.wanted(c) {
		needed := c.Resources.Limits[corev1.ResourceName(name)]
		m.free(ctx, pod.UID)
		g, err := m.reserve(ctx, pod, c.Name, name, int(needed.Value()))
		if err != nil {
			return err
		}
		if g == nil {
			continue
		}
		start := time.Now()
		response, err := call(ctx, m, name, allocateTimeout, func(ctx context.Context, p *plugin) (*pluginapi.AllocateResponse, error) {
			return p.api.Allocate(ctx, &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{{DevicesIds: g.IDs}}})
		})
		m.durations.WithLabelValues(name).Observe(time.Since(start).Seconds())
		if err == nil && len(response.GetContainerResponses()) == 0 {
			err = fmt.Errorf("no containers return in allocation response %v", response)
		}
		m.mu.Lock()
		if err != nil {
			delete(m.pods[pod.UID][c.Name], name)
			m.mu.Unlock()
			return err
		}
		g.Response = response.GetContainerResponses()[0]
		m.mu.Unlock()
		given = true
	}
	if !given {
		return nil
	}
	return m.record(ctx, pod.UID)
}

// wanted returns the resources that a container asks for and that are, or were, some plugin's. Of these requests equal
// limits.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go isDevicePluginResource.
func (m *Manager) wanted(c *corev1.Container) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	var used map[string]map[string]bool
	for name, quantity := range c.Resources.Limits {
		if quantity.IsZero() {
			continue
		}
		if m.resources[string(name)] == nil {
			if used == nil {
				used = m.used()
			}
			if used[string(name)] == nil {
				continue
			}
		}
		names = append(names, string(name))
	}
	slices.Sort(names)
	return names
}

// free takes the devices from pods that are no longer active, but from the one that asks.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go UpdateAllocatedDevices.
func (m *Manager) free(ctx context.Context, but types.UID) {
	m.mu.Lock()
	uids, active := slices.Collect(maps.Keys(m.pods)), m.active
	m.mu.Unlock()
	for _, uid := range uids {
		if uid == but || active == nil || active(uid) {
			continue
		}
		m.mu.Lock()
		delete(m.pods, uid)
		m.mu.Unlock()
		if err := m.opts.Records.SetDevices(uid, nil); err != nil {
			klog.FromContext(ctx).Error(err, "Recording that a pod has no devices any more failed", "ofUID", uid)
		}
	}
}

// reserve chooses devices for a container; from then on no other container gets them. It returns nil when the container has some.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go devicesToAllocate, without the topology manager.
func (m *Manager) reserve(ctx context.Context, pod *corev1.Pod, container, name string, needed int) (*grant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	had := m.pods[pod.UID][container][name]
	if had != nil && len(had.IDs) != needed {
		return nil, fmt.Errorf("pod %q container %q changed request for resource %q from %d to %d", pod.UID, container, name, len(had.IDs), needed)
	}
	r := m.resources[name]
	if r == nil {
		return nil, fmt.Errorf("cannot allocate unregistered device %s", name)
	}
	healthy := r.healthy()
	switch {
	case len(healthy) == 0:
		return nil, fmt.Errorf("no healthy devices present; cannot allocate unhealthy devices %s", name)
	case had == nil:
	case len(without(had.IDs, healthy)) > 0:
		return nil, fmt.Errorf("previously allocated devices are no longer healthy; cannot allocate unhealthy devices %s", name)
	default:
		return nil, nil
	}
	chosen := m.reusable(pod, container, name)
	chosen = chosen[:min(needed, len(chosen))]
	if left := needed - len(chosen); left > 0 {
		available, err := m.available(name, left)
		if err != nil {
			return nil, err
		}
		if preferred, err := m.preferred(ctx, name, available, chosen, needed); err != nil {
			return nil, err
		} else if preferred != nil { // other pods may have got devices meanwhile
			if available, err = m.available(name, left); err != nil {
				return nil, err
			}
			available = preferring(preferred, available)
		}
		chosen = append(chosen, available[:left]...)
	}
	g := &grant{IDs: chosen, NUMA: map[string][]int64{}}
	for _, id := range chosen {
		for _, node := range r.devices[id].GetTopology().GetNodes() {
			g.NUMA[id] = append(g.NUMA[id], node.GetID())
		}
	}
	m.pods.set(pod.UID, container, name, g)
	return g, nil
}

// available returns the healthy devices that no container has. It fails when there are fewer than needed. Callers hold mu.
func (m *Manager) available(name string, needed int) ([]string, error) {
	used := slices.Collect(maps.Keys(m.used()[name]))
	available := without(m.resources[name].healthy(), used)
	if len(available) < needed {
		return nil, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", name, needed, len(available))
	}
	return available, nil
}

// preferred asks the plugin which devices go well together; nil if it has no preference. Callers hold mu, which is free
// while the plugin thinks.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go callGetPreferredAllocationIfAvailable.
func (m *Manager) preferred(ctx context.Context, name string, available, must []string, size int) ([]string, error) {
	if p := m.resources[name].current; !p.options.GetGetPreferredAllocationAvailable() {
		return nil, nil
	}
	m.mu.Unlock()
	response, err := call(ctx, m, name, allocateTimeout, func(ctx context.Context, p *plugin) (*pluginapi.PreferredAllocationResponse, error) {
		return p.api.GetPreferredAllocation(ctx, &pluginapi.PreferredAllocationRequest{ContainerRequests: []*pluginapi.ContainerPreferredAllocationRequest{{
			AvailableDeviceIDs: append(slices.Clone(available), must...), MustIncludeDeviceIDs: must, AllocationSize: int32(size),
		}}})
	})
	m.mu.Lock()
	if err != nil {
		return nil, fmt.Errorf("device plugin GetPreferredAllocation rpc failed with err: %w", err)
	}
	preferred := []string{}
	if of := response.GetContainerResponses(); len(of) > 0 {
		preferred = of[0].GetDeviceIDs()
	}
	return preferred, nil
}

// reusable returns the devices of init containers, which end before others begin, that no sidecar and no regular container
// of the pod has got after them. Callers hold mu.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go devicesToReuse.
func (m *Manager) reusable(pod *corev1.Pod, container, name string) []string {
	var reusable []string
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == container {
			break
		}
		g := m.pods[pod.UID][c.Name][name]
		if g == nil {
			continue
		}
		reusable = without(reusable, g.IDs)
		if podinfo.IsInit(pod, c.Name) && !podinfo.IsSidecar(&c) {
			reusable = append(reusable, g.IDs...)
		}
	}
	slices.Sort(reusable)
	return reusable
}

// record writes down which devices a pod's containers have.
func (m *Manager) record(ctx context.Context, uid types.UID) error {
	m.mu.Lock()
	data, err := m.pods[uid].encode()
	m.mu.Unlock()
	if err == nil {
		err = m.opts.Records.SetDevices(uid, data)
	}
	if err == nil {
		err = m.opts.Records.Save(ctx, uid)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("failed to write checkpoint file %q", "resources.json"), err)
	}
	return nil
}

// without returns the elements of a that b lacks, in their order.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// preferring returns all elements of all, each once, those of first before the others.
func preferring(first, all []string) (out []string) {
	for _, s := range slices.Concat(first, all) {
		if slices.Contains(all, s) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
