package devices

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// Assigned returns what a container that is about to be created gets with its devices: variables, mounts, devices, CDI
// devices, annotations. Plugins that want to are told before.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go GetDeviceRunContainerOptions.
func (m *Manager) Assigned(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (*runtimeapi.ContainerConfig, error) {
	again := false
	for _, name := range m.wanted(c) {
		m.mu.Lock()
		g, r := m.pods[pod.UID][c.Name][name], m.resources[name]
		m.mu.Unlock()
		again = again || g == nil
		if r == nil {
			return nil, fmt.Errorf("endpoint not found in cache for a registered resource: %s", name)
		}
		if err := m.prepare(ctx, pod, c, name, g); err != nil {
			return nil, err
		}
	}
	if again { // the record was lost, or no plugin had registered the resource when the pod was admitted
		klog.FromContext(ctx).Info("Assigning devices to a container that should have some", "containerName", c.Name)
		if err := m.allocate(ctx, pod, c); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pods[pod.UID].options(c.Name), nil
}

// prepare tells a plugin that a container with its devices is about to be created.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go callPreStartContainerIfNeeded.
func (m *Manager) prepare(ctx context.Context, pod *corev1.Pod, c *corev1.Container, name string, g *grant) error {
	m.mu.Lock()
	p := m.resources[name].current
	m.mu.Unlock()
	if p == nil || !p.options.GetPreStartRequired() {
		return nil
	}
	if g == nil {
		return fmt.Errorf("no devices found allocated in local cache for pod %s, container %s, resource %s", pod.UID, c.Name, name)
	}
	_, err := call(ctx, m, name, startTimeout, func(ctx context.Context, p *plugin) (*pluginapi.PreStartContainerResponse, error) {
		return p.api.PreStartContainer(ctx, &pluginapi.PreStartContainerRequest{DevicesIds: g.IDs})
	})
	if err != nil {
		return fmt.Errorf("device plugin PreStartContainer rpc failed with err: %w", err)
	}
	return nil
}

// options puts together what the plugins said. Of what several say, the first resource by name counts.
//
// Upstream: pkg/kubelet/cm/devicemanager/pod_devices.go deviceRunContainerOptions.
func (g grants) options(container string) *runtimeapi.ContainerConfig {
	a := &runtimeapi.ContainerConfig{}
	seen := map[string]bool{}
	first := func(kind, key string) bool {
		had := seen[kind+key]
		seen[kind+key] = true
		return !had
	}
	of := g[container]
	for _, name := range slices.Sorted(maps.Keys(of)) {
		response := of[name].Response
		for _, key := range slices.Sorted(maps.Keys(response.GetEnvs())) {
			if first("env ", key) {
				a.Envs = append(a.Envs, &runtimeapi.KeyValue{Key: key, Value: []byte(response.GetEnvs()[key])})
			}
		}
		for _, d := range response.GetDevices() {
			if first("device ", d.GetContainerPath()) {
				a.Devices = append(a.Devices, &runtimeapi.Device{ContainerPath: d.GetContainerPath(), HostPath: d.GetHostPath(), Permissions: d.GetPermissions()})
			}
		}
		for _, mount := range response.GetMounts() {
			if first("mount ", mount.GetContainerPath()) {
				a.Mounts = append(a.Mounts, &runtimeapi.Mount{ContainerPath: mount.GetContainerPath(), HostPath: mount.GetHostPath(), Readonly: mount.GetReadOnly()})
			}
		}
		for key, value := range response.GetAnnotations() {
			if first("annotation ", key) {
				if a.Annotations == nil {
					a.Annotations = map[string]string{}
				}
				a.Annotations[key] = value
			}
		}
		for _, d := range response.GetCdiDevices() {
			if first("cdi ", d.GetName()) {
				a.CDIDevices = append(a.CDIDevices, &runtimeapi.CDIDevice{Name: d.GetName()})
			}
		}
	}
	return a
}

// Health tells of the devices of a regular container how they are, for the pod's status.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go UpdateAllocatedResourcesStatus.
func (m *Manager) Health(uid types.UID, container string) []corev1.ResourceStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	var statuses []corev1.ResourceStatus
	of := m.pods[uid][container]
	for _, name := range slices.Sorted(maps.Keys(of)) {
		if of[name].Response == nil {
			continue
		}
		s := corev1.ResourceStatus{Name: corev1.ResourceName(name)}
		for _, id := range slices.Sorted(slices.Values(of[name].IDs)) {
			health := corev1.ResourceHealthStatusHealthy // as upstream also what no plugin tells of
			if r := m.resources[name]; r != nil && r.devices[id] != nil && r.devices[id].GetHealth() != pluginapi.Healthy {
				health = corev1.ResourceHealthStatusUnhealthy
			}
			s.Resources = append(s.Resources, corev1.ResourceHealth{ResourceID: corev1.ResourceID(id), Health: health})
		}
		statuses = append(statuses, s)
	}
	return statuses
}

// Devices returns a container's devices for PodResources.
func (m *Manager) Devices(uid types.UID, container string) []*podresourcesapi.ContainerDevices {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*podresourcesapi.ContainerDevices
	of := m.pods[uid][container]
	for _, name := range slices.Sorted(maps.Keys(of)) {
		for _, id := range of[name].IDs {
			if of[name].Response != nil {
				list = append(list, device(name, id, of[name].NUMA[id])...)
			}
		}
	}
	return list
}

// All returns all healthy devices for PodResources.
func (m *Manager) All() []*podresourcesapi.ContainerDevices {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*podresourcesapi.ContainerDevices
	for _, name := range slices.Sorted(maps.Keys(m.resources)) {
		r := m.resources[name]
		for _, id := range r.healthy() {
			var nodes []int64
			for _, node := range r.devices[id].GetTopology().GetNodes() {
				nodes = append(nodes, node.GetID())
			}
			list = append(list, device(name, id, nodes)...)
		}
	}
	return list
}

// device is one device, once for each NUMA node that it is at.
//
// Upstream: pkg/kubelet/cm/container_manager.go containerDevicesFromResourceDeviceInstances.
func device(name, id string, nodes []int64) []*podresourcesapi.ContainerDevices {
	if len(nodes) == 0 {
		return []*podresourcesapi.ContainerDevices{{ResourceName: name, DeviceIds: []string{id}}}
	}
	var list []*podresourcesapi.ContainerDevices
	for _, node := range nodes {
		list = append(list, &podresourcesapi.ContainerDevices{
			ResourceName: name, DeviceIds: []string{id}, Topology: &podresourcesapi.TopologyInfo{Nodes: []*podresourcesapi.NUMANode{{ID: node}}},
		})
	}
	return list
}
