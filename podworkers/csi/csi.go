// Package csi has the node's CSI drivers make the volumes of pods: it knows the drivers that are registered, tells the
// cluster of them, stages and publishes volumes, and takes them away again.
//
// What is mounted stands on disk alone, in a file vol_data.json beside each mount as upstream writes it, so that a
// kubelet that was started again, ours or upstream's, can take away what the one before it made.
package csi

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"minikubelet/podworkers/objects"
)

// pluginName is how upstream calls CSI among its volume plugins.
const pluginName = "kubernetes.io/csi"

// callTimeout is how long a driver may take to answer.
//
// Upstream: pkg/volume/csi/csi_plugin.go csiTimeout.
const callTimeout = 2 * time.Minute

// NodeClient writes the node's object, as client-go's typed client does.
type NodeClient interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (*corev1.Node, error)
	Patch(ctx context.Context, name string, kind types.PatchType, body []byte, o metav1.PatchOptions, subresources ...string) (*corev1.Node, error)
}

// CSINodeClient writes CSINodes, as client-go's typed client does.
type CSINodeClient interface { //nolint:revive // the kind is called so
	Get(ctx context.Context, name string, o metav1.GetOptions) (*storagev1.CSINode, error)
	Create(ctx context.Context, node *storagev1.CSINode, o metav1.CreateOptions) (*storagev1.CSINode, error)
	Update(ctx context.Context, node *storagev1.CSINode, o metav1.UpdateOptions) (*storagev1.CSINode, error)
	Delete(ctx context.Context, name string, o metav1.DeleteOptions) error
}

// AttachmentClient reads VolumeAttachments, as client-go's typed client does.
type AttachmentClient interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (*storagev1.VolumeAttachment, error)
}

// TokenFunc returns a token of the pod's service account.
type TokenFunc func(ctx context.Context, pod *corev1.Pod, request *authv1.TokenRequest) (*authv1.TokenRequest, error)

// Options are the ways to the apiserver and where things are.
type Options struct {
	// RootDir is the kubelet's directory. Drivers know it.
	RootDir  string
	NodeName string

	Drivers     cache.ListerWatcher // of CSIDriver objects
	Nodes       NodeClient
	CSINodes    CSINodeClient
	Attachments AttachmentClient
	Secret      func(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// NewToken asks for a token, CachedToken only when the last one is old.
	NewToken, CachedToken TokenFunc

	// Node returns the node's object as it is known, and a channel that is closed when that changes.
	Node func() (*corev1.Node, <-chan struct{})
	// InUseChanged has the node's status written: VolumesInUse answers differently now.
	InUseChanged func()
}

// Manager mounts volumes of CSI drivers. It is the Handler of their registration.
//
// Upstream: pkg/volume/csi/csi_plugin.go csiPlugin.
type Manager struct {
	opts    Options
	objects objects.Informer // CSIDriver objects
	locks   Locks            // one per volume: what is done to it is done one after the other

	nodeMu sync.Mutex // serialises changes of the node's objects

	mu      sync.Mutex
	drivers map[string]driver               // registered ones, by name
	staged  map[volumeID]string             // where this kubelet staged them
	inUse   map[volumeID]bool               // persistent ones that are mounted
	wanted  map[volumeID]map[types.UID]bool // those that pods want to be, by pod
	waiting map[types.UID][]string          // names of volumes that pods wait for to be attached
	timers  map[string]*time.Timer          // until drivers are asked again, by name
	ended   bool                            // no more of them
}

// volumeID names a volume: the driver's name and its handle for the volume.
type volumeID struct{ driver, handle string }

// String is the volume's name in errors.
func (v volumeID) String() string { return v.handle }

// unique is the volume's name in the node's status.
//
// Upstream: pkg/volume/util/util.go GetUniqueVolumeName.
func (v volumeID) unique() corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName(pluginName + "/" + v.driver + "^" + v.handle)
}

// New returns a Manager that knows the volumes that an earlier kubelet left, as far as its records can be read.
func New(opts Options) *Manager {
	m := &Manager{
		opts:    opts,
		drivers: map[string]driver{}, staged: map[volumeID]string{}, inUse: map[volumeID]bool{}, wanted: map[volumeID]map[types.UID]bool{},
		waiting: map[types.UID][]string{}, timers: map[string]*time.Timer{},
	}
	m.objects = objects.Informer{
		What: "CSIDriver objects", Kind: &storagev1.CSIDriver{}, Watch: func() cache.ListerWatcher { return opts.Drivers },
		Changed: func(object any) { m.schedule(object.(*storagev1.CSIDriver).Name) },
	}
	left, err := m.leftovers()
	if err != nil {
		klog.Background().Error(err, "Not all CSI volumes of an earlier kubelet are known")
	}
	for _, v := range left {
		m.inUse[v] = true
	}
	return m
}

// Run tells the cluster that the node has no driver yet, and stops what others started when ctx ends.
func (m *Manager) Run(ctx context.Context) {
	if m == nil {
		return
	}
	m.ensureCSINode(ctx)
	m.followNode(ctx)
	m.objects.Stop()
	m.stopTimers()
}

// VolumesInUse are the volumes that must not be detached from the node, sorted: those in use that are attached to nodes at all.
//
// Upstream: pkg/kubelet/volumemanager/volume_manager.go GetVolumesInUse.
func (m *Manager) VolumesInUse() []corev1.UniqueVolumeName {
	if m == nil {
		return nil
	}
	names := []corev1.UniqueVolumeName{}
	drivers := m.objects.Known()
	for v := range m.used() {
		// Before the drivers are known any volume may be one that is attached.
		if drivers == nil || attachRequired(objectIn(drivers, v.driver)) {
			names = append(names, v.unique())
		}
	}
	return sorted(names)
}

// used are the persistent volumes that are mounted, or that pods want to be.
func (m *Manager) used() map[volumeID]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := maps.Clone(m.inUse)
	for v := range m.wanted {
		all[v] = true
	}
	return all
}

// pluginDir is where staged volumes are, by driver.
func (m *Manager) pluginDir() string { return filepath.Join(m.opts.RootDir, "plugins", pluginName) }

func (m *Manager) podsDir() string { return filepath.Join(m.opts.RootDir, "pods") }

// Locks are locks by what they are of. The zero value is ready.
type Locks struct{ held sync.Map } // of what is locked: a channel that is closed when it is free

// Take waits until something is free, and returns what gives it back; an error if ctx ends before.
func (l *Locks) Take(ctx context.Context, what any) (release func(), err error) {
	mine := make(chan struct{})
	for {
		other, busy := l.held.LoadOrStore(what, mine)
		if !busy {
			return func() { l.held.Delete(what); close(mine) }, nil
		}
		select {
		case <-other.(chan struct{}):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for others who use volume %v: %w", what, ctx.Err())
		}
	}
}
