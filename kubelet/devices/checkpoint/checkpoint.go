// Package checkpoint is the file in which Kubernetes' kubelet records the devices of pods. Its checksum is over the content
// as Go prints it, names of package and types included, so these are called as upstream's are.
//
// Upstream: pkg/kubelet/cm/devicemanager/checkpoint/checkpoint.go.
package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"
	"k8s.io/utils/dump"
)

// File is its name in the directory of device plugins.
const File = "kubelet_internal_checkpoint"

// PodDevicesEntry is what a container has of one resource.
type PodDevicesEntry struct {
	PodUID        string
	ContainerName string
	ResourceName  string
	DeviceIDs     DevicesPerNUMA
	AllocResp     []byte // an encoded ContainerAllocateResponse
}

// DevicesPerNUMA are devices by NUMA node, -1 for those that are at none.
type DevicesPerNUMA map[int64][]string

type checkpointData struct {
	PodDeviceEntries  []PodDevicesEntry
	RegisteredDevices map[string][]string
}

type content struct {
	Data     checkpointData
	Checksum uint64
}

// Read returns what the file has, and whether there is one. Its checksum is left to its owner.
func Read(path string) (entries []PodDevicesEntry, registered map[string][]string, known bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, false, nil
	}
	var c content
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return nil, nil, true, fmt.Errorf("read the devices of Kubernetes' kubelet: %s: %w", path, err)
	}
	return c.Data.PodDeviceEntries, c.Data.RegisteredDevices, true, nil
}

// Write replaces the file.
func Write(path string, entries []PodDevicesEntry, registered map[string][]string) error {
	c := content{Data: checkpointData{PodDeviceEntries: entries, RegisteredDevices: registered}}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(dump.ForHash(c.Data))) // a hash takes all
	c.Checksum = uint64(sum.Sum32())
	data, err := json.Marshal(c)
	if err == nil {
		err = renameio.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record devices for Kubernetes' kubelet: %w", err)
	}
	return nil
}
