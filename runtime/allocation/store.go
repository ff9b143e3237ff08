package allocation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	podinfo "minikubelet/config/pod"
)

const (
	// file lies in the pod's directory, and goes with it.
	file    = "resources.json"
	maxFile = 1 << 20
)

// Store holds the allocations of all pods, and on disk one small file for each, so that a kubelet that comes back knows
// what its pods were given whatever their specs say by then. Safe for concurrent use.
//
// The sync loop only changes memory: a goroutine of the store writes the files, one at a time and without the lock, since a
// slow disk must not hold up the loop. Before a pod's containers are changed, its worker calls Save, which waits for the file.
//
// Upstream: pkg/kubelet/allocation/state/state_checkpoint.go stateCheckpoint
type Store struct {
	dir   string // <root-dir>/pods
	write func(uid types.UID, data []byte, sync bool) error

	mu      sync.Mutex
	pods    map[types.UID]*record
	earlier map[types.UID]earlier // what the files had at the start, until the pods come
	lost    error                 // why a file about several pods could not be read, until Recall returned it
	dirty   map[types.UID]bool    // pods whose files are to be written
	idle    chan struct{}         // closed when the goroutine that does so ends; nil if none runs
}

// record is one pod. Actuated holds only what is not as allocated yet.
type record struct {
	Allocated Resources `json:"allocated"`
	Actuated  Resources `json:"actuated,omitzero"`
	// Devices is written and read by what assigns devices.
	Devices json.RawMessage `json:"devices,omitempty"` // part: devices, kubelet/devices

	pending, progress *corev1.PodCondition

	version int           // counts the changes of what the file has
	saved   int           // the version that is in the file
	sync    bool          // the next version in the file must survive a crash of the machine
	err     error         // why the last attempt to write the file failed; nil if it did not
	tried   chan struct{} // closed, and replaced, after each attempt
}

// earlier is a pod's record from the kubelet before, or why it is lost.
type earlier struct {
	record *record
	err    error
}

func newRecord() *record { return &record{tried: make(chan struct{})} }

// New returns a Store over the directory that holds a directory for each pod, and reads it; with "" it forgets when the
// process ends.
func New(podsDir string) *Store {
	s := &Store{dir: podsDir, pods: map[types.UID]*record{}, dirty: map[types.UID]bool{}, earlier: map[types.UID]earlier{}}
	s.write = s.writeFile
	if podsDir == "" {
		return s
	}
	pods, _ := os.ReadDir(podsDir) // none before the first pod
	for _, pod := range pods {
		r, err := read(filepath.Join(podsDir, pod.Name(), file))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			err = fmt.Errorf("read what pod %s was given: %w", pod.Name(), err)
		}
		s.earlier[types.UID(pod.Name())] = earlier{r, err}
	}
	s.lost = s.readUpstream() // part: Kubernetes' kubelet's records, upstream.go
	return s
}

// Recall returns the pod with the resources it was given earlier, by this kubelet or the one before it, or as it is if it is new. An
// error, which is returned once, says that a record is lost; the spec then counts in its place.
func (s *Store) Recall(pod *corev1.Pod) (*corev1.Pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.earlier[pod.UID]
	delete(s.earlier, pod.UID)
	err := errors.Join(e.err, s.lost)
	s.lost = nil
	if s.pods[pod.UID] == nil {
		if e.record == nil {
			return pod, err
		}
		e.record.backfill(pod)
		s.pods[pod.UID] = e.record
	}
	allocated, differs := s.pods[pod.UID].Allocated.Apply(pod)
	if !differs {
		s.pods[pod.UID].pending = nil // the pod no longer asks for what it waited for
	}
	return allocated, err
}

// Allocated returns the pod with the resources it was given, and whether they differ from those in its spec.
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
// been told (see Actuated). It does not wait for the disk; Save does.
func (s *Store) Allocate(pod *corev1.Pod) error {
	if err := podinfo.CheckUID(pod.UID); s.dir != "" && err != nil {
		return fmt.Errorf("record what pod %s/%s was given: %w", pod.Namespace, pod.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next, r := Of(pod), s.pods[pod.UID]
	if r == nil {
		r = newRecord()
		r.Allocated = next
		s.pods[pod.UID] = r
		// The first record need not survive a crash of the machine, after which nothing of the pod runs.
		s.changed(pod.UID, r, false)
		return nil
	}
	if _, differs := r.Allocated.Apply(pod); differs {
		r.Actuated = r.Actuated.lag(r.Allocated, next)
		r.Allocated = next
		s.changed(pod.UID, r, true)
	}
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

// SetContainerActuated records the resources that the runtime gave a container or was told to give it, and waits for
// the disk.
func (s *Store) SetContainerActuated(ctx context.Context, uid types.UID, container string, has corev1.ResourceRequirements) error {
	return s.change(ctx, uid, func(r *record) bool {
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
// lags behind those. It waits for the disk.
func (s *Store) SetActuated(ctx context.Context, pod *corev1.Pod) error {
	return s.change(ctx, pod.UID, func(r *record) bool {
		r.Actuated = Resources{}.lag(Of(pod), r.Allocated)
		return true
	})
}

func (s *Store) change(ctx context.Context, uid types.UID, edit func(*record) bool) error {
	s.mu.Lock()
	r := s.pods[uid]
	edited := r != nil && edit(r)
	if edited {
		s.changed(uid, r, true)
	}
	s.mu.Unlock()
	if !edited {
		return nil
	}
	return s.Save(ctx, uid)
}

// Save waits until the file has what the pod was given and has, and returns why it could not be written; the next call
// tries again. It costs nothing when nothing has changed.
func (s *Store) Save(ctx context.Context, uid types.UID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.pods[uid]
	if s.dir == "" || r == nil || r.saved == r.version {
		return nil
	}
	if r.err != nil {
		r.err = nil
		s.enqueue(uid)
	}
	for wanted := r.version; r.saved < wanted; {
		tried := r.tried
		s.mu.Unlock()
		var ended error
		select {
		case <-tried:
		case <-ctx.Done():
			ended = ctx.Err()
		}
		s.mu.Lock()
		if err := errors.Join(ended, r.err); err != nil {
			return fmt.Errorf("record what pod %s was given and has: %w", uid, err)
		}
	}
	return nil
}

// Wait waits until no file is being written or is to be; ctx may end the wait.
func (s *Store) Wait(ctx context.Context) {
	s.mu.Lock()
	idle := s.idle
	s.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// records are those of all pods, also of pods that have not come yet. Callers hold mu.
func (s *Store) records() map[types.UID]*record {
	all := maps.Clone(s.pods)
	for uid, e := range s.earlier {
		if all[uid] == nil && e.record != nil {
			all[uid] = e.record
		}
	}
	return all
}

// changed makes the goroutine write the pod's file. Callers hold mu.
func (s *Store) changed(uid types.UID, r *record, sync bool) {
	r.version++
	r.sync = r.sync || sync
	s.enqueue(uid)
}

func (s *Store) enqueue(uid types.UID) {
	if s.dir == "" {
		return
	}
	s.dirty[uid] = true
	if s.idle == nil {
		s.idle = make(chan struct{})
		go s.writeDirty()
	}
}

// writeDirty writes files until all are as the memory. Changes that come while a file is written are written together.
func (s *Store) writeDirty() {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { close(s.idle); s.idle = nil }()
	for len(s.dirty) > 0 {
		for uid := range s.dirty {
			delete(s.dirty, uid)
			if r := s.pods[uid]; r != nil { // else it was forgotten meanwhile
				s.writeRecord(uid, r)
			}
		}
	}
}

// writeRecord writes one file. Callers hold mu, which is free while the file is written.
func (s *Store) writeRecord(uid types.UID, r *record) {
	version, sync := r.version, r.sync
	r.sync = false
	data, err := json.Marshal(r)
	s.mu.Unlock()
	if err == nil {
		err = s.write(uid, data, sync)
	}
	s.mu.Lock()
	if r.err = err; err == nil {
		r.saved = max(r.saved, version)
	} else {
		r.sync = r.sync || sync
	}
	r.wake()
}

// wake wakes the callers that wait for an attempt to write the file.
func (r *record) wake() {
	close(r.tried)
	r.tried = make(chan struct{})
}

// Forget drops a pod. Its file goes with its directory.
func (s *Store) Forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.pods[uid]; r != nil {
		r.saved = r.version // a worker that waits for the file goes on
		r.wake()
	}
	delete(s.pods, uid)
	delete(s.earlier, uid)
}

// read reads a pod's file. One that cannot be understood is set aside.
func read(path string) (*record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := newRecord()
	if err := json.NewDecoder(io.LimitReader(f, maxFile)).Decode(r); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", file, err), os.Rename(path, path+".broken"))
	}
	return r, nil
}

// writeFile replaces the pod's file in one step.
func (s *Store) writeFile(uid types.UID, data []byte, sync bool) error {
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
