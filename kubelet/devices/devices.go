// Package devices assigns the devices of device plugins to containers. A plugin names a resource and serves a socket; it
// lists its devices and tells of their health, and says what a container needs that gets some of them: variables, mounts,
// device nodes, annotations. Which container has which device is recorded with what else its pod was given.
//
// Reading order: devices.go, register.go, plugin.go, allocate.go, assigned.go.
package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Options are what a Manager is made of. All but Registerer are required.
type Options struct {
	// Dir holds the socket kubelet.sock, on which plugins register, and their own sockets: ROOT/device-plugins.
	Dir string
	// Records keep the devices of pods.
	Records Records
	// Changed is called when there are more or fewer devices than before; soon, but not as often as a plugin may say so.
	Changed func()
	// HealthChanged is called with a pod that has a device whose health is another; it may block.
	HealthChanged func(types.UID)
	Registerer    prometheus.Registerer // may be nil
}

// Records keep what pods were given, and one thing more of each.
type Records interface {
	// Devices returns what was kept of all pods.
	Devices() map[types.UID]json.RawMessage
	// SetDevices keeps something of a pod, nil for nothing.
	SetDevices(pod types.UID, devices json.RawMessage) error
	// Save waits until that is on disk.
	Save(ctx context.Context, pod types.UID) error
}

// stopGracePeriod is how long the capacity of a resource is reported whose last plugin has gone.
//
// Upstream: pkg/kubelet/cm/devicemanager/types.go endpointStopGracePeriod.
const stopGracePeriod = 5 * time.Minute

// Manager knows the plugins, their devices, and whose these are.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go ManagerImpl.
type Manager struct {
	opts          Options
	registrations *prometheus.CounterVec
	durations     *prometheus.HistogramVec
	lifetime      context.Context // of the plugins' connections
	end           context.CancelFunc
	watching      sync.WaitGroup
	news          chan struct{} // Changed is due; capacity 1
	recreated     bool
	saving        sync.Mutex // writes of the names' file, one at a time
	saved         []byte     // what it has

	mu        sync.Mutex           // the sync loop takes it: held for no call and no file
	active    func(types.UID) bool // nil before Run
	unserved  error                // why plugins cannot register
	resources map[string]*deviceResource
	pods      podGrants
}

// deviceResource is one resource, as example.com/gpu.
type deviceResource struct {
	plugins map[string]*plugin           // those that serve it, by socket
	current *plugin                      // the one that is asked, or that was last; nil when none came since the kubelet started
	devices map[string]*pluginapi.Device // as was listed last
	listed  bool                         // by a plugin that is still there
	stopped time.Time                    // when the last plugin went; zero while there is one
}

func (r *deviceResource) expired() bool {
	return !r.stopped.IsZero() && time.Since(r.stopped) > stopGracePeriod
}

// healthy returns the devices that may be given out, sorted.
func (r *deviceResource) healthy() []string {
	if !r.listed {
		return nil
	}
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(r.devices)) {
		if r.devices[id].GetHealth() == pluginapi.Healthy {
			ids = append(ids, id)
		}
	}
	return ids
}

// New returns a Manager that knows what an earlier kubelet recorded. An error tells what of that is lost; the Manager can
// be used all the same.
func New(opts Options) (*Manager, error) {
	f := promauto.With(opts.Registerer)
	m := &Manager{
		opts: opts, news: make(chan struct{}, 1), resources: map[string]*deviceResource{}, pods: podGrants{},
		registrations: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_device_plugin_registration_total", Help: "Registrations of device plugins.",
		}, []string{"resource_name"}),
		durations: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_device_plugin_alloc_duration_seconds", Help: "Seconds that a device plugin took to allocate devices.", Buckets: prometheus.DefBuckets,
		}, []string{"resource_name"}),
	}
	m.lifetime, m.end = context.WithCancel(context.Background())
	names, known, err := readNames(m.namesFile())
	m.recreated = !known
	for uid, data := range opts.Records.Devices() {
		g, broken := parseGrants(data)
		if broken != nil {
			err = errors.Join(err, broken)
			continue
		}
		m.pods[uid] = g
	}
	former, lost := m.readUpstream() // part: Kubernetes' kubelet's record, upstream.go
	for _, name := range slices.Concat(names, former) {
		// Its plugin has not come yet, but the resource is one of plugins, so there is none of it until then.
		m.resources[name] = &deviceResource{plugins: map[string]*plugin{}, stopped: time.Now()}
	}
	return m, errors.Join(err, lost)
}

// Run takes registrations until ctx ends. From then on the devices of pods can be others' that are no longer active.
func (m *Manager) Run(ctx context.Context, active func(types.UID) bool) {
	m.mu.Lock()
	m.active = active
	m.mu.Unlock()
	defer m.watching.Wait()
	defer m.endWatching()
	m.saveNames()
	m.watching.Go(m.tell)
	m.mu.Lock()
	m.expire() // resources of plugins that do not come back
	m.mu.Unlock()
	if err := m.serve(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Device plugins cannot register")
		m.mu.Lock()
		m.unserved = fmt.Errorf("device registration error: device plugin registration gRPC server failed and no device plugins can register: %w", err)
		m.mu.Unlock()
	}
}

// Check tells why plugins cannot register, nil if they can.
//
// Upstream: pkg/kubelet/cm/devicemanager/plugin/v1beta1/server.go Check.
func (m *Manager) Check() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unserved
}

// A plugin that is unsure of its devices may tell of each change of mind. A few are passed on at once, more at the pace of
// the node's status.
const (
	changesAtOnce = 10
	changesEvery  = 10 * time.Second
)

func (m *Manager) changed() {
	select {
	case m.news <- struct{}{}:
	default:
	}
}

// tell calls Changed as long as Run lasts.
func (m *Manager) tell() {
	pace := rate.NewLimiter(rate.Every(changesEvery), changesAtOnce)
	for {
		select {
		case <-m.lifetime.Done():
			return
		case <-m.news:
		}
		if pace.Wait(m.lifetime) != nil {
			return
		}
		m.opts.Changed()
	}
}

// endWatching ends listening to plugins; none is begun after it.
func (m *Manager) endWatching() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end()
}

// Recreated tells that no kubelet ran on this machine before: what the node's status says of extended resources is of
// another machine of its name.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go ShouldResetExtendedResourceCapacity.
func (m *Manager) Recreated() bool { return m.recreated }

// Capacity returns how many devices of each resource there are, and how many of them are healthy. A resource whose plugin
// has gone has no healthy ones, and after stopGracePeriod none at all; it stays in both lists with 0.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go GetCapacity.
func (m *Manager) Capacity() (capacity, allocatable corev1.ResourceList) {
	m.mu.Lock()
	defer m.mu.Unlock()
	capacity, allocatable = corev1.ResourceList{}, corev1.ResourceList{}
	for name, r := range m.resources {
		all := len(r.devices)
		if r.expired() {
			all = 0
		}
		capacity[corev1.ResourceName(name)] = *resource.NewQuantity(int64(all), resource.DecimalSI)
		allocatable[corev1.ResourceName(name)] = *resource.NewQuantity(int64(len(r.healthy())), resource.DecimalSI)
	}
	return capacity, allocatable
}

// Allocatable adds devices to what pods may request in all. For a pod that has some already there are no fewer than pods
// have, so that it is not turned away because their plugin is not there. The list given is not changed.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go sanitizeNodeAllocatable.
func (m *Manager) Allocatable(pod types.UID, others corev1.ResourceList) corev1.ResourceList {
	_, devices := m.Capacity()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(devices) == 0 && len(m.pods[pod]) == 0 {
		return others
	}
	allocatable := maps.Clone(others)
	maps.Copy(allocatable, devices)
	if len(m.pods[pod]) == 0 {
		return allocatable
	}
	for name, used := range m.used() {
		if have := allocatable[corev1.ResourceName(name)]; have.Value() < int64(len(used)) {
			allocatable[corev1.ResourceName(name)] = *resource.NewQuantity(int64(len(used)), resource.DecimalSI)
		}
	}
	return allocatable
}

// used returns the devices that pods have, by resource. Callers hold mu.
func (m *Manager) used() map[string]map[string]bool {
	used := map[string]map[string]bool{}
	for _, pod := range m.pods {
		for _, container := range pod {
			for name, g := range container {
				if used[name] == nil {
					used[name] = map[string]bool{}
				}
				for _, id := range g.IDs {
					used[name][id] = true
				}
			}
		}
	}
	return used
}
