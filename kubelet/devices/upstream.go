package devices

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// part: what Kubernetes' kubelet recorded that was in this one's place before.

// checkpoint is its file, whose checksum is left to its owner.
//
// Upstream: pkg/kubelet/cm/devicemanager/checkpoint/checkpoint.go.
type checkpoint struct {
	Data struct {
		PodDeviceEntries []struct {
			PodUID, ContainerName, ResourceName string
			DeviceIDs                           map[int64][]string // by NUMA node, -1 for none
			AllocResp                           []byte
		}
		RegisteredDevices map[string][]string
	}
}

// readUpstream takes the devices of pods that this kubelet did not record any of, and returns the resources of plugins.
func (m *Manager) readUpstream() ([]string, error) {
	path := filepath.Join(m.opts.Dir, "kubelet_internal_checkpoint")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	m.recreated = false
	var c checkpoint
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return nil, fmt.Errorf("read the devices of Kubernetes' kubelet: %s: %w", path, err)
	}
	theirs := podGrants{}
	for _, e := range c.Data.PodDeviceEntries {
		g := &grant{NUMA: map[string][]int64{}, Response: &pluginapi.ContainerAllocateResponse{}}
		if err := proto.Unmarshal(e.AllocResp, g.Response); err != nil {
			return nil, fmt.Errorf("read the devices of Kubernetes' kubelet: %s: pod %s: %w", path, e.PodUID, err)
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
	return slices.Collect(maps.Keys(c.Data.RegisteredDevices)), nil
}
