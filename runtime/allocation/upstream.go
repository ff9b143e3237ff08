package allocation

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/dump"
)

// part: what Kubernetes' kubelet records, which was in this one's place before or comes into it.

// Names of its files in the root directory, each of which holds all pods.
const (
	allocatedFile = "allocated_pods_state"
	actuatedFile  = "actuated_pods_state"
	maxStateFile  = 64 << 20
)

// readUpstream takes what Kubernetes' kubelet recorded of the pods that this one did not record anything of since. What
// WriteUpstream left is as this kubelet's own records are, which have more.
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
		if own := s.earlier[uid].record; own != nil && own.same(r) {
			continue
		}
		s.earlier[uid] = earlier{record: r}
	}
	return errors.Join(err, broken)
}

func (r *record) same(other *record) bool {
	return equality.Semantic.DeepEqual(r.Allocated, other.Allocated) && equality.Semantic.DeepEqual(r.Actuated.clone(), other.Actuated.clone())
}

// WriteUpstream records for Kubernetes' kubelet what the pods were given and have. Without that it restarts the containers
// whose resizePolicy says RestartContainer, as it does not know what they have. Call it when nothing changes any more.
func (s *Store) WriteUpstream() error {
	if s.dir == "" {
		return nil
	}
	s.mu.Lock()
	allocated, actuated := map[types.UID]stateEntry{}, map[types.UID]stateEntry{}
	for uid, r := range s.records() {
		has := r.Allocated.clone()
		maps.Copy(has.Containers, r.Actuated.Containers)
		has.Pod = cmp.Or(r.Actuated.Pod, has.Pod)
		allocated[uid] = stateEntry{r.Allocated.clone().Containers, r.Allocated.Pod}
		actuated[uid] = stateEntry{has.Containers, has.Pod}
	}
	s.mu.Unlock()
	root := filepath.Dir(s.dir)
	return errors.Join(writeState(filepath.Join(root, allocatedFile), allocated), writeState(filepath.Join(root, actuatedFile), actuated))
}

// stateFile is such a file. Data is the JSON of a stateContent.
//
// Upstream: pkg/kubelet/allocation/state/checkpoint.go Checkpoint
type stateFile struct {
	Data     string `json:"data"`
	Checksum uint64 `json:"checksum"`
}

type stateContent struct {
	Entries map[types.UID]stateEntry `json:"entries,omitempty"`
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

// readState reads such a file, and tells when it was written. The checksum is not checked: a file that a power loss cut short is no
// valid JSON.
func readState(path string) (map[types.UID]stateEntry, time.Time, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read what Kubernetes' kubelet gave pods: %w", err)
	}
	defer f.Close()
	var file stateFile
	var content stateContent
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

func writeState(path string, entries map[types.UID]stateEntry) error {
	data, err := json.Marshal(stateContent{entries})
	if err == nil {
		sum := fnv.New32a()
		_, _ = sum.Write([]byte(dump.ForHash(string(data)))) // a hash takes all
		data, err = json.Marshal(stateFile{Data: string(data), Checksum: uint64(sum.Sum32())})
	}
	if err == nil {
		err = renameio.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record for Kubernetes' kubelet what pods have: %w", err)
	}
	return nil
}
