package devices

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"minikubelet/kubelet/devices/checkpoint"
)

// part: what Kubernetes' kubelet records, which was in this one's place before or comes into it.

func (m *Manager) upstreamFile() string { return filepath.Join(m.opts.Dir, checkpoint.File) }

// readUpstream takes the devices of pods that this kubelet did not record any of, and returns the resources of plugins.
func (m *Manager) readUpstream() ([]string, error) {
	entries, registered, known, err := checkpoint.Read(m.upstreamFile())
	if known {
		m.recreated = false
	}
	if err != nil {
		return nil, err
	}
	theirs := podGrants{}
	for _, e := range entries {
		g := &grant{NUMA: map[string][]int64{}, Response: &pluginapi.ContainerAllocateResponse{}}
		if err := proto.Unmarshal(e.AllocResp, g.Response); err != nil {
			return nil, fmt.Errorf("read the devices of Kubernetes' kubelet: pod %s: %w", e.PodUID, err)
		}
		for node, ids := range e.DeviceIDs {
			for _, id := range ids {
				if !slices.Contains(g.IDs, id) {
					g.IDs = append(g.IDs, id)
				}
				if node >= 0 {
					g.NUMA[id] = append(g.NUMA[id], node)
				}
			}
		}
		slices.Sort(g.IDs)
		theirs.set(types.UID(e.PodUID), e.ContainerName, e.ResourceName, g)
	}
	for uid, of := range theirs {
		if m.pods[uid] == nil {
			m.pods[uid] = of
		}
	}
	return slices.Collect(maps.Keys(registered)), nil
}

// WriteUpstream records for Kubernetes' kubelet which pods have which devices, without which it gives them to others. Call it
// when Run has returned.
func (m *Manager) WriteUpstream() error {
	entries, registered, err := m.upstreamEntries()
	if err != nil {
		return err
	}
	return checkpoint.Write(m.upstreamFile(), entries, registered)
}

// upstreamEntries are what Kubernetes' kubelet records of pods with devices, and of plugins.
func (m *Manager) upstreamEntries() (entries []checkpoint.PodDevicesEntry, registered map[string][]string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for uid, containers := range m.pods {
		for container, resources := range containers {
			for name, g := range resources {
				if g.Response == nil {
					continue // its plugin had not answered
				}
				response, err := proto.Marshal(g.Response)
				if err != nil {
					return nil, nil, fmt.Errorf("record the devices of pod %s for Kubernetes' kubelet: %w", uid, err)
				}
				entries = append(entries, checkpoint.PodDevicesEntry{
					PodUID: string(uid), ContainerName: container, ResourceName: name, DeviceIDs: g.perNUMA(), AllocResp: response,
				})
			}
		}
	}
	registered = map[string][]string{}
	for name, r := range m.resources {
		if !r.expired() {
			registered[name] = r.healthy()
		}
	}
	return entries, registered, nil
}

func (g *grant) perNUMA() checkpoint.DevicesPerNUMA {
	per := checkpoint.DevicesPerNUMA{}
	for _, id := range g.IDs {
		nodes := g.NUMA[id]
		if len(nodes) == 0 {
			nodes = []int64{-1}
		}
		for _, node := range nodes {
			per[node] = append(per[node], id)
		}
	}
	return per
}
