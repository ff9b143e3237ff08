package allocation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// part: what Kubernetes' kubelet recorded that was in this one's place before.

// Names of its files in the root directory, each of which holds all pods.
const (
	allocatedFile = "allocated_pods_state"
	actuatedFile  = "actuated_pods_state"
	maxStateFile  = 64 << 20
)

// readUpstream takes what Kubernetes' kubelet recorded of the pods that this one did not record anything of since.
func (s *Store) readUpstream() error {
	root := filepath.Dir(s.dir)
	allocated, at, err := readState(filepath.Join(root, allocatedFile))
	actuated, _, broken := readState(filepath.Join(root, actuatedFile))
	for uid, given := range allocated {
		if info, err := os.Stat(filepath.Join(s.dir, string(uid), file)); err == nil && !at.After(info.ModTime()) {
			continue
		}
		r := newRecord()
		r.Allocated = given.resources()
		if has, known := actuated[uid]; known {
			r.Actuated = Resources{}.lag(has.resources(), r.Allocated)
		}
		s.earlier[uid] = earlier{record: r}
	}
	return errors.Join(err, broken)
}

// stateEntry is one pod in such a file.
//
// Upstream: pkg/kubelet/allocation/state/state.go PodResourceInfo
type stateEntry struct {
	ContainerResources map[string]corev1.ResourceRequirements
	PodLevelResources  *corev1.ResourceRequirements
}

func (e stateEntry) resources() Resources {
	return Resources{Pod: e.PodLevelResources, Containers: e.ContainerResources}
}

// readState reads such a file, and tells when it was written. Its checksum is left to its owner: what a power loss left
// of it is no JSON.
func readState(path string) (map[types.UID]stateEntry, time.Time, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read what Kubernetes' kubelet gave pods: %w", err)
	}
	defer f.Close()
	var file struct {
		Data string `json:"data"`
	}
	var content struct {
		Entries map[types.UID]stateEntry `json:"entries"`
	}
	info, err := f.Stat()
	if err == nil {
		err = json.NewDecoder(io.LimitReader(f, maxStateFile)).Decode(&file)
	}
	if err == nil {
		err = json.Unmarshal([]byte(file.Data), &content)
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read what Kubernetes' kubelet gave pods: %s: %w", path, err)
	}
	return content.Entries, info.ModTime(), nil
}
