// Package userns gives pods that ask for a user namespace (hostUsers: false) a range of the node's user and group IDs
// each. No two pods share an ID, and none has one of the node's own, which are those of the first range.
package userns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/renameio/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
)

const (
	// unit is what the number of IDs per pod must be a multiple of, and the number by default.
	unit = 65536
	// file lies in the pod's directory. It is upstream's, so that a pod keeps its IDs when kubelets change.
	file    = "userns"
	maxFile = 64 << 10
	broken  = ".broken" // appended to the name of one that is set aside
)

// Range is a run of IDs.
type Range struct{ First, Length uint64 }

// Options say which IDs there are. IDs is all of them but the first IDsPerPod by default.
type Options struct {
	PodsDir   string // <root-dir>/pods
	IDs       Range
	IDsPerPod int64 // userNamespaces.idsPerPod, 65536 by default
	MaxPods   int   // for how many pods the IDs must do
}

// Manager knows which pod has which range; a nil one has none to give. Safe for concurrent use.
//
// Upstream: pkg/kubelet/userns/userns_manager.go UsernsManager
type Manager struct {
	dir    string
	length uint32
	first  uint64 // number of the first range
	count  uint64 // how many there are

	mu    sync.Mutex
	users map[uint64]types.UID
	pods  map[types.UID]uint64
	next  uint64 // where to look for a free range: one given back is used again last
}

// New checks the options and reads which pods have ranges already.
func New(o Options) (*Manager, error) {
	if o.IDsPerPod == 0 {
		o.IDsPerPod = unit
	}
	length := uint64(o.IDsPerPod)
	if o.IDs == (Range{}) {
		o.IDs = Range{length, 1<<32 - length}
	}
	switch {
	case o.IDsPerPod < 0 || length%unit != 0 || length >= 1<<32:
		return nil, fmt.Errorf("userNamespaces.idsPerPod: %d is not a multiple of %d below 2^32", o.IDsPerPod, unit)
	case o.IDs.First%length != 0 || o.IDs.First < length:
		return nil, fmt.Errorf("user namespaces: the kubelet's first ID, %d, must be a multiple of %d above 0", o.IDs.First, length)
	case o.IDs.Length%length != 0 || o.IDs.First+o.IDs.Length > 1<<32:
		return nil, fmt.Errorf("user namespaces: the number of the kubelet's IDs, %d, must be a multiple of %d", o.IDs.Length, length)
	case o.IDs.Length/length < uint64(o.MaxPods):
		return nil, fmt.Errorf("user namespaces: the kubelet's %d IDs do not do for %d pods (maxPods)", o.IDs.Length, o.MaxPods)
	}
	m := &Manager{
		dir: o.PodsDir, length: uint32(length), first: o.IDs.First / length, count: o.IDs.Length / length,
		users: map[uint64]types.UID{}, pods: map[types.UID]uint64{},
	}
	entries, err := os.ReadDir(o.PodsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("user namespaces: %w", err)
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		if _, _, err := m.known(types.UID(entry.Name())); err != nil {
			klog.Background().Error(err, "The IDs of a pod's user namespace are not known", "podUID", entry.Name())
		}
	}
	return m, nil
}

// ForPod returns the node's user namespace, or, for a pod that asks for its own, one with IDs that no other pod has.
// supported is what the runtime handler of the pod says. A nil Manager refuses pods that ask for their own.
func (m *Manager) ForPod(pod *corev1.Pod, handler string, supported *bool) (*runtimeapi.UserNamespace, error) {
	switch {
	case !podinfo.HasUserNamespace(pod):
		return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}, nil
	case m != nil && supported != nil && *supported:
		return m.Mapping(pod.UID)
	case handler != "":
		return nil, fmt.Errorf("can't set `spec.hostUsers: false`, RuntimeClass handler %q does not support user namespaces", handler)
	}
	return nil, errors.New("can't set `spec.hostUsers: false`, runtime does not support user namespaces")
}

// Mapping returns the pod's user namespace, giving it one if it has none.
func (m *Manager) Mapping(uid types.UID) (*runtimeapi.UserNamespace, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	number, ok, err := m.known(uid)
	if err != nil {
		return nil, fmt.Errorf("user namespace: %w", err)
	}
	if !ok {
		if number, err = m.allocate(uid); err != nil {
			return nil, fmt.Errorf("create user namespace: %w", err)
		}
	}
	ids := func() []*runtimeapi.IDMapping {
		return []*runtimeapi.IDMapping{{HostId: uint32(number * uint64(m.length)), Length: m.length}}
	}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids(), Gids: ids()}, nil
}

// Release takes the pod's IDs back. The pod's containers must be gone, and its volumes.
func (m *Manager) Release(uid types.UID) error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.release(uid)
}

// Retain takes back the IDs of all pods but those picked.
func (m *Manager) Retain(keep func(types.UID) bool) error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for uid := range m.pods {
		if !keep(uid) {
			errs = append(errs, m.release(uid))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) release(uid types.UID) error {
	number, ok := m.pods[uid]
	if !ok {
		return nil
	}
	if err := os.Remove(filepath.Join(m.dir, string(uid), file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release user namespace of pod %s: %w", uid, err)
	}
	delete(m.pods, uid)
	delete(m.users, number)
	return nil
}

// known returns the number of the pod's range, reading the file that an earlier kubelet may have written. One that is
// broken, or tells of IDs that are not the pod's to have, is set aside: the pod counts as one without IDs.
func (m *Manager) known(uid types.UID) (number uint64, ok bool, err error) {
	if number, ok = m.pods[uid]; ok {
		return number, true, nil
	}
	if err := podinfo.CheckUID(uid); err != nil {
		return 0, false, err
	}
	f, err := os.Open(filepath.Join(m.dir, string(uid), file))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err == nil {
		number, err = m.parse(data)
	}
	if other, taken := m.users[number]; err == nil && taken {
		err = fmt.Errorf("its IDs belong to pod %s", other)
	}
	if err != nil {
		klog.Background().Error(err, "The record of a pod's user namespace is set aside", "file", f.Name(), "as", file+broken)
		m.next = rand.Uint64N(m.count) // the pod may run with IDs that are not known now, the first ones perhaps
		return 0, false, os.Rename(f.Name(), f.Name()+broken)
	}
	m.users[number], m.pods[uid] = uid, number
	return number, true, nil
}

// mappings is what the file holds.
type mappings struct {
	UIDs []mapping `json:"uidMappings"`
	GIDs []mapping `json:"gidMappings"`
}

type mapping struct {
	Host      uint32 `json:"hostId"`
	Container uint32 `json:"containerId"`
	Length    uint32 `json:"length"`
}

// parse reads a pod's file and returns the number of its range.
func (m *Manager) parse(data []byte) (uint64, error) {
	var file mappings
	if err := json.Unmarshal(data, &file); err != nil {
		return 0, fmt.Errorf("invalid user namespace mappings file: %w", err)
	}
	if len(file.UIDs) != 1 || len(file.GIDs) != 1 || file.UIDs[0] != file.GIDs[0] {
		return 0, errors.New("invalid user namespace mappings file: there must be one mapping, the same for users and groups")
	}
	ids := file.UIDs[0]
	number := uint64(ids.Host / m.length)
	switch {
	case ids.Container != 0:
		return 0, errors.New("invalid user namespace mappings file: ID 0 must be mapped")
	case ids.Length != m.length || ids.Host%m.length != 0:
		return 0, fmt.Errorf("invalid user namespace mappings file: %d IDs from %d are no range of %d", ids.Length, ids.Host, m.length)
	case number < m.first || number >= m.first+m.count:
		return 0, fmt.Errorf("invalid user namespace mappings file: ID %d is not the kubelet's", ids.Host)
	}
	return number, nil
}

// allocate finds a free range and records it on disk before it is used.
func (m *Manager) allocate(uid types.UID) (uint64, error) {
	if uint64(len(m.users)) >= m.count {
		return 0, errors.New("could not find an empty slot to allocate a user namespace")
	}
	number := m.first + m.next%m.count
	for m.users[number] != "" {
		m.next++
		number = m.first + m.next%m.count
	}
	ids := []mapping{{Host: uint32(number * uint64(m.length)), Length: m.length}}
	data, err := json.Marshal(mappings{ids, ids})
	if err != nil {
		return 0, err
	}
	if err := writeDurably(filepath.Join(m.dir, string(uid)), data); err != nil {
		return 0, err
	}
	m.next++
	m.users[number], m.pods[uid] = uid, number
	return number, nil
}

// writeDurably replaces the file, and returns when it will outlast a crash: IDs that files have must not be given twice.
func writeDurably(dir string, data []byte) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(dir, file), data, 0o600, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600)); err != nil {
		return err
	}
	parent, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}
