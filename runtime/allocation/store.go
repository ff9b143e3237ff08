package allocation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// file lies in the pod's directory, and goes with it.
	file    = "resources.json"
	maxFile = 1 << 20
)

// Store holds the allocations of all pods, and on disk one small file for each, so that a kubelet that comes back knows
// what its pods were given whatever their specs say by then. Safe for concurrent use.
//
// Upstream: pkg/kubelet/allocation/state/state_checkpoint.go stateCheckpoint
type Store struct {
	dir string // <root-dir>/pods

	mu   sync.Mutex
	pods map[types.UID]*record
}

// record is one pod. Actuated holds only what is not as allocated yet.
type record struct {
	Allocated Resources `json:"allocated"`
	Actuated  Resources `json:"actuated,omitzero"`

	pending, progress *corev1.PodCondition
}

// New returns a Store over the directory that holds a directory for each pod; with "" it forgets when the process ends.
func New(podsDir string) *Store { return &Store{dir: podsDir, pods: map[types.UID]*record{}} }

// Recall returns the pod with the resources it was given earlier, by this kubelet or the one before it. A pod never
// seen comes back as it is. With an error too: what was recorded is then lost, and the spec counts.
func (s *Store) Recall(pod *corev1.Pod) (*corev1.Pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods[pod.UID] == nil {
		r, err := s.read(pod.UID)
		if r == nil || err != nil {
			return pod, err
		}
		r.backfill(pod)
		s.pods[pod.UID] = r
	}
	allocated, _ := s.pods[pod.UID].Allocated.Apply(pod)
	return allocated, nil
}

// Allocated returns the pod with the resources it was given, and whether they differ from those in its spec.
//
// Upstream: pkg/kubelet/allocation/allocation_manager.go UpdatePodFromAllocation
func (s *Store) Allocated(pod *corev1.Pod) (*corev1.Pod, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.pods[pod.UID]
	if r == nil {
		return pod, false
	}
	return r.Allocated.Apply(pod)
}

// Allocate gives the pod what its spec asks for. A pod that had something else goes on with that until the runtime has
// been told (see Actuated).
//
// Upstream: pkg/kubelet/allocation/allocation_manager.go SetAllocatedResources
func (s *Store) Allocate(pod *corev1.Pod) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, old := record{Allocated: Of(pod)}, s.pods[pod.UID]
	if old != nil {
		if _, changed := old.Allocated.Apply(pod); !changed {
			return nil
		}
		next.pending, next.progress = old.pending, old.progress
		next.Actuated = old.Actuated.lag(old.Allocated, next.Allocated)
	}
	// A pod's first record is worth no wait for the disk: after a crash of the machine nothing of the pod runs.
	if err := s.write(pod.UID, &next, old != nil); err != nil {
		return fmt.Errorf("record what pod %s/%s was given: %w", pod.Namespace, pod.Name, err)
	}
	s.pods[pod.UID] = &next
	return nil
}

// Actuated returns what of the pod does not have its allocation yet, and false if all of it has.
func (s *Store) Actuated(uid types.UID) (Resources, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.pods[uid]
	if r == nil || r.Actuated.empty() {
		return Resources{}, false
	}
	return r.Actuated.clone(), true
}

// SetContainerActuated records the resources that the runtime gave a container or was told to give it.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go setActuatedContainerResources
func (s *Store) SetContainerActuated(uid types.UID, container string, has corev1.ResourceRequirements) error {
	return s.change(uid, func(r *record) bool {
		old, lags := r.Actuated.Containers[container]
		allocated, ok := r.Allocated.Containers[container]
		switch {
		case !ok || equality.Semantic.DeepEqual(has, allocated):
			delete(r.Actuated.Containers, container)
			return lags
		case lags && equality.Semantic.DeepEqual(has, old):
			return false
		case r.Actuated.Containers == nil:
			r.Actuated.Containers = map[string]corev1.ResourceRequirements{}
		}
		r.Actuated.Containers[container] = *has.DeepCopy()
		return true
	})
}

// SetActuated records that the whole pod has the resources of its spec. If it was allocated others meanwhile, it now
// lags behind those.
func (s *Store) SetActuated(pod *corev1.Pod) error {
	return s.change(pod.UID, func(r *record) bool {
		r.Actuated = Resources{}.lag(Of(pod), r.Allocated)
		return true
	})
}

func (s *Store) change(uid types.UID, edit func(*record) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.pods[uid]
	if r == nil || !edit(r) {
		return nil
	}
	if err := s.write(uid, r, true); err != nil {
		return fmt.Errorf("record what pod %s has: %w", uid, err)
	}
	return nil
}

// Forget drops a pod. Its file goes with its directory.
//
// Upstream: pkg/kubelet/allocation/allocation_manager.go RemovePod
func (s *Store) Forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, uid)
}

func (s *Store) read(uid types.UID) (*record, error) {
	if s.dir == "" {
		return nil, nil
	}
	if uid == "" || !filepath.IsLocal(string(uid)) {
		return nil, fmt.Errorf("read what pod %q was given: its UID cannot name a directory", uid)
	}
	f, err := os.Open(filepath.Join(s.dir, string(uid), file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what pod %s was given: %w", uid, err)
	}
	defer f.Close()
	var r record
	if err := json.NewDecoder(io.LimitReader(f, maxFile)).Decode(&r); err != nil {
		err = fmt.Errorf("read what pod %s was given: %s: %w", uid, file, err)
		return nil, errors.Join(err, os.Rename(f.Name(), f.Name()+".broken")) // so that it is told once
	}
	return &r, nil
}

// write replaces the pod's file in one step.
func (s *Store) write(uid types.UID, r *record, sync bool) error {
	if s.dir == "" {
		return nil
	}
	if uid == "" || !filepath.IsLocal(string(uid)) {
		return fmt.Errorf("UID %q cannot name a directory", uid)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	dir := filepath.Join(s.dir, string(uid))
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, file+".*")
	if err != nil {
		return err
	}
	_, err = temp.Write(data)
	if err == nil && sync {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), filepath.Join(dir, file))
	}
	if err != nil {
		_ = os.Remove(temp.Name()) // the first error is the one to tell
	}
	return err
}
