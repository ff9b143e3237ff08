// Package volumes mounts a pod's volumes before its containers start and unmounts them after they ended. The pod's worker calls
// it and waits: there is no reconciler in the background.
//
// Volumes are at PODS/UID/volumes/kubernetes.io~KIND/NAME, as upstream's are. After a restart of the kubelet these directories
// and the kernel's mounts tell what is mounted; there is no other record.
package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers/csi"
	"minikubelet/podworkers/objects"
)

// Options are where volumes go and what fills them.
type Options struct {
	// PodsDir is the directory of pods' directories: ROOT/pods.
	PodsDir string
	Objects *objects.Manager
	// HostIPs and Allocatable are the node's, for downward API volumes.
	HostIPs     func() []string
	Allocatable func() corev1.ResourceList
	// Node is the node's object, whose labels say which PersistentVolumes it can have.
	Node func() *corev1.Node
	// Claims reads claims and their volumes, CSI mounts those of CSI drivers; nil without an apiserver.
	Claims Claims
	CSI    *csi.Manager
	// RecursiveReadOnly tells whether the pod's runtime can make mounts read-only with all that is mounted below; nil for no.
	RecursiveReadOnly func(*corev1.Pod) bool
	// Events tells of volumes that stand and cannot be brought up to date; may be nil.
	Events     record.EventRecorder
	Registerer prometheus.Registerer // may be nil
}

// Manager mounts and unmounts volumes. Calls for one pod must not overlap: a pod has one worker.
//
// Upstream: pkg/kubelet/volumemanager/volume_manager.go volumeManager.
type Manager struct {
	opts    Options
	metrics *metrics
	locals  csi.Locks // one per path of a local volume: of two pods that come at once the second finds the files as the first has them
	files   filesystems
	stuck   sync.Map // names of PersistentVolumes that a driver would not give the size that was last asked for

	mu       sync.Mutex
	places   map[types.UID]map[string]place // of volumes of claims and CSI drivers, by pod and name
	standing map[types.UID]*standing
}

// New returns a Manager.
func New(opts Options) *Manager {
	return &Manager{opts: opts, metrics: newMetrics(opts.Registerer), places: map[types.UID]map[string]place{}, standing: map[types.UID]*standing{}}
}

// plugins are upstream's directory names of the kinds that have a directory.
var plugins = map[string]string{
	"emptyDir": "empty-dir", "configMap": "configmap", "secret": "secret", "downwardAPI": "downward-api", "projected": "projected",
}

// kindOf names the volume's source as the API does; "" for one that is not supported here.
func kindOf(v *corev1.Volume) string {
	switch {
	case v.EmptyDir != nil:
		return "emptyDir"
	case v.HostPath != nil:
		return "hostPath"
	case v.ConfigMap != nil:
		return "configMap"
	case v.Secret != nil:
		return "secret"
	case v.DownwardAPI != nil:
		return "downwardAPI"
	case v.Projected != nil:
		return "projected"
	case v.Image != nil:
		return "image" // the runtime mounts it
	case v.PersistentVolumeClaim != nil, v.Ephemeral != nil, v.CSI != nil:
		return "elsewhere"
	}
	return ""
}

func (m *Manager) podDir(uid types.UID) string { return filepath.Join(m.opts.PodsDir, string(uid)) }

// dir is the volume's directory on the node, or the host's own for a hostPath; "" for one that is not mounted.
func (m *Manager) dir(uid types.UID, v *corev1.Volume) string {
	switch kindOf(v) {
	case "hostPath":
		return v.HostPath.Path
	case "elsewhere":
		p, _ := m.placed(uid, v.Name)
		return p.dir
	}
	return filepath.Join(m.podDir(uid), "volumes", "kubernetes.io~"+plugins[kindOf(v)], v.Name)
}

// Mount mounts the volumes that containers of the pod use. It is called at each sync: a volume whose content changed is updated,
// others stay. It returns errors only of volumes that never stood, and tells of them, or an AttachLimitError.
func (m *Manager) Mount(ctx context.Context, pod *corev1.Pod) error {
	var errs []error
	var missing []unmounted
	m.metrics.begin(pod.UID)
	for _, v := range used(pod) {
		if err := m.refresh(ctx, pod, v); err != nil {
			errs, missing = append(errs, err), append(missing, unmounted{v.Name, err})
		}
	}
	if ctx.Err() == nil { // else it is the end of the step that they have not
		errs = append(errs, m.tell(pod, missing))
	}
	return errors.Join(errs...)
}

// mount mounts a volume, or brings it up to date. Its errors name the volume.
func (m *Manager) mount(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	err := os.MkdirAll(filepath.Join(m.podDir(pod.UID), "volumes"), 0o750) // other users of the machine cannot look into it
	if err == nil {
		err = m.mountKind(ctx, pod, v)
	}
	return failed(setUpFailed, v.Name, err)
}

func (m *Manager) mountKind(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	dir := m.dir(pod.UID, v)
	switch kindOf(v) {
	case "hostPath":
		return m.mountHostPath(ctx, v.HostPath)
	case "emptyDir":
		return m.mountEmptyDir(pod, v.EmptyDir, dir)
	case "elsewhere":
		return m.mountElsewhere(ctx, pod, v)
	case "image":
		return nil
	case "":
		return Unsupported(pod)
	}
	files, err := m.payload(ctx, pod, v)
	if errors.Is(err, objects.ErrNotIssued) && complete(dir) {
		return nil // the certificates that the kubelet before wrote serve until there are new ones
	}
	if err != nil {
		return err
	}
	// Secrets and tokens are never written to a disk.
	wrapped := &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}
	if v.ConfigMap != nil {
		wrapped.Medium = corev1.StorageMediumDefault
	}
	if err := m.mountEmptyDir(pod, wrapped, dir); err != nil {
		return err
	}
	return writeAtomic(dir, files, podinfo.FSGroup(pod), nested(pod, v.Name)...)
}

// Next is when Mount should be called again although nothing happened: a token or a certificate is to be replaced, a driver is to
// publish again, or an update of a volume failed. Zero for never. It is called after Mount, so something that is overdue has
// just failed.
func (m *Manager) Next(uid types.UID) time.Time {
	var first time.Time
	now := time.Now()
	for _, at := range []time.Time{m.opts.Objects.TokenRefresh(uid), m.opts.Objects.CertificateRefresh(uid), m.nextRepublish(uid), m.nextRefresh(uid)} {
		if at.IsZero() {
			continue
		}
		if !at.After(now) {
			at = now.Add(overdue)
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}
