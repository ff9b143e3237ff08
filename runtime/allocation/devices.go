package allocation

import (
	"bytes"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
)

// part: devices, kubelet/devices

// Devices returns what is recorded of the devices of all pods, also of those that no source has sent yet.
func (s *Store) Devices() map[types.UID]json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	devices := map[types.UID]json.RawMessage{}
	for uid, r := range s.records() {
		if r.Devices != nil {
			devices[uid] = r.Devices
		}
	}
	return devices
}

// SetDevices records the devices of a pod, nil for none. It does not wait for the disk; Save does.
func (s *Store) SetDevices(uid types.UID, devices json.RawMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.earlier[uid]; e.record != nil {
		e.record.Devices = devices
	}
	r := s.pods[uid]
	switch {
	case r == nil && devices != nil:
		return fmt.Errorf("record the devices of pod %s: the node has not admitted it", uid)
	case r == nil || bytes.Equal(r.Devices, devices):
		return nil
	}
	r.Devices = devices
	s.changed(uid, r, false) // after a crash of the machine nothing of the pod runs
	return nil
}
