// Package eviction keeps the node alive when memory, disk or process IDs run out: it says so in the node's conditions,
// removes what is not in use, and as the last resort ends a pod. Pods that use more of the disk than their own limits
// allow are ended too.
//
// Reading order: eviction.go, signals.go, rank.go, limits.go; then what measures: observe.go, usage.go, notify.go.
package eviction

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/kubelet/measure"
	"minikubelet/kubelet/settings"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/criserver/diskusage"
)

// Reason is that of an evicted pod, of its event and of the rejection of a pod by a node under pressure.
//
// Upstream: pkg/kubelet/eviction/helpers.go Reason.
const Reason = "Evicted"

const (
	// monitoringPeriod is how often the resources are looked at if nothing tells of a shortage.
	//
	// Upstream: pkg/kubelet/kubelet.go evictionMonitoringPeriod.
	monitoringPeriod = 10 * time.Second
	// cleanupTimeout is how long an evicted pod has to go before the next one may be.
	//
	// Upstream: pkg/kubelet/eviction/eviction_manager.go podCleanupTimeout.
	cleanupTimeout = 30 * time.Second
	// immediately is the grace period of a pod that is evicted for a hard threshold.
	//
	// Upstream: pkg/kubelet/eviction/eviction_manager.go immediateEvictionGracePeriodSeconds.
	immediately int64 = 1
)

// Eviction is the end of one pod.
type Eviction struct {
	Pod *corev1.Pod
	// GracePeriod in seconds; nil for the pod's own.
	GracePeriod *int64
	Message     string
	// Condition, if there is one, is put into the pod's status.
	Condition *corev1.PodCondition
}

// Options is everything a Manager needs. What says so may be nil.
type Options struct {
	Settings *settings.Settings
	CRI      *cri.Client
	Events   record.EventRecorder
	Node     func() *corev1.ObjectReference // the object of the node's events

	PodsDir, PodLogsDir string
	// Disk measures them.
	Disk *diskusage.Disk
	// ActivePods are the pods that may use resources.
	ActivePods func() []*corev1.Pod
	// Kill ends a pod; it does not wait for that.
	Kill func(context.Context, Eviction)
	// Cleaned is closed when nothing of the pod is left but its record.
	Cleaned func(types.UID) <-chan struct{}
	// SetPressure is told the node's conditions after each look.
	SetPressure func([]corev1.NodeConditionType)
	// DeleteUnusedContainers and DeleteUnusedImages free disk space at no pod's cost.
	DeleteUnusedContainers, DeleteUnusedImages func(context.Context) error
	// PodUsage reads a pod's cgroup; nil where pods have none.
	PodUsage func(*corev1.Pod) (workingSet, processes int64, err error)
	// PodsMemory reads the cgroup of all pods; nil where it has no limit.
	PodsMemory func() (workingSet, limit int64, err error)

	Registerer prometheus.Registerer // may be nil
	Machine    *measure.Machine
}

// Manager evicts pods.
//
// Upstream: pkg/kubelet/eviction/eviction_manager.go managerImpl.
type Manager struct {
	Options
	observer  observer
	limits    atomic.Pointer[limits]
	changed   chan struct{} // limits were set; capacity 1
	isolate   bool
	tracker   tracker
	pressure  atomic.Pointer[[]corev1.NodeConditionType]
	evictions *prometheus.CounterVec

	mu      sync.Mutex
	evicted map[types.UID]bool // pods that were ended and may still be there
}

// New returns a Manager; Run starts it.
func New(o Options) *Manager {
	m := &Manager{
		Options: o, changed: make(chan struct{}, 1), isolate: *o.Settings.LocalStorageCapacityIsolation,
		observer: observer{cri: o.CRI, machine: o.Machine, nodeFs: o.PodsDir, podMemory: o.PodsMemory},
		tracker:  tracker{seen: map[corev1.NodeConditionType]time.Time{}},
		evicted:  map[types.UID]bool{},
		evictions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_evictions", Help: "Pods evicted, by the signal that was the reason.",
		}, []string{"eviction_signal"}),
	}
	m.pressure.Store(&[]corev1.NodeConditionType{})
	m.Reconfigure(o.Settings)
	if o.Registerer != nil {
		o.Registerer.MustRegister(m.evictions)
	}
	return m
}

// Pressure is what the node is short of: the reason not to take in pods.
func (m *Manager) Pressure() []corev1.NodeConditionType { return *m.pressure.Load() }

// Run watches the node's resources and the pods' own limits until ctx ends. Pods with many files take long to measure,
// and a node that is short of memory cannot wait for that.
func (m *Manager) Run(ctx context.Context) {
	var parts sync.WaitGroup
	if m.isolate {
		places := m.observer // each loop asks for itself where things are
		parts.Go(func() { m.watchLimits(ctx, &places) })
	}
	for len(m.limits.Load().thresholds) == 0 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-m.changed:
		}
	}
	if ctx.Err() == nil {
		m.watchResources(ctx)
	}
	parts.Wait()
}

// limits are the settings that may change while the kubelet runs.
type limits struct {
	thresholds []settings.EvictionThreshold
	maxGrace   int64 // seconds; negative for the pod's own
	transition time.Duration
}

// Reconfigure sets thresholds and grace periods, which the next look goes by.
func (m *Manager) Reconfigure(s *settings.Settings) {
	m.limits.Store(&limits{
		thresholds: s.EvictionThresholds(), maxGrace: int64(s.EvictionMaxPodGracePeriod), transition: s.EvictionPressureTransitionPeriod.Duration,
	})
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// watchResources looks every 10 seconds, and at once when tasks wait for memory.
func (m *Manager) watchResources(ctx context.Context) {
	stalls := watchStalls(ctx, m.Machine)
	tick := time.NewTicker(monitoringPeriod)
	defer tick.Stop()
	for {
		if gone := m.synchronize(ctx); len(gone) > 0 {
			m.awaitCleanup(ctx, gone)
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-stalls:
		case <-m.changed:
		}
	}
}

// awaitCleanup waits until evicted pods are gone: only then can be seen what that has brought.
func (m *Manager) awaitCleanup(ctx context.Context, pods []*corev1.Pod) {
	timeout := time.NewTimer(cleanupTimeout)
	defer timeout.Stop()
	for _, pod := range pods {
		select {
		case <-ctx.Done():
			return
		case <-timeout.C:
			klog.FromContext(ctx).Info("Eviction: an evicted pod is still there, going on", "pod", klog.KObj(pod), "podUID", pod.UID)
			return
		case <-m.Cleaned(pod.UID):
		}
	}
}

// synchronize looks once and acts on what it sees. It returns the pods that it has ended.
func (m *Manager) synchronize(ctx context.Context) []*corev1.Pod {
	observed, disks := m.observer.observe(ctx)
	if ctx.Err() != nil {
		return nil
	}
	limits := m.limits.Load()
	m.tracker.transition = limits.transition
	thresholds := thresholdsFor(limits.thresholds, disks, m.PodsMemory != nil)
	acting, pressure := m.tracker.observe(thresholds, observed, time.Now())
	m.pressure.Store(&pressure)
	m.SetPressure(pressure)

	if len(acting) == 0 {
		return nil
	}
	threshold := acting[0]
	short := meanings[threshold.Signal].resource
	klog.FromContext(ctx).Info("Eviction: the node is short of a resource", "resource", short, "signal", threshold.Signal,
		"available", observed[threshold.Signal].available, "threshold", threshold.Value.Of(observed[threshold.Signal].capacity))
	m.Events.Eventf(m.Node(), corev1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim %s", short)
	if m.reclaim(ctx, threshold.Signal, disks, thresholds) {
		return nil
	}
	return m.evictOne(ctx, m.candidates(), threshold, observed, disks)
}

// candidates are the active pods that are not on their way out by the manager's own hand.
func (m *Manager) candidates() []*corev1.Pod {
	pods := m.ActivePods()
	m.mu.Lock()
	defer m.mu.Unlock()
	still := map[types.UID]bool{}
	for _, pod := range pods {
		if m.evicted[pod.UID] {
			still[pod.UID] = true
		}
	}
	m.evicted = still
	return slices.DeleteFunc(pods, func(pod *corev1.Pod) bool { return m.evicted[pod.UID] })
}

// reclaim frees what no pod misses, and tells whether that was enough.
func (m *Manager) reclaim(ctx context.Context, signal string, disks layout, thresholds []settings.EvictionThreshold) bool {
	on := contentsOf(signal, disks)
	if meanings[signal].condition != corev1.NodeDiskPressure || !on.containers && !on.images {
		return false
	}
	log := klog.FromContext(ctx)
	if on.containers {
		if err := m.DeleteUnusedContainers(ctx); err != nil {
			log.Error(err, "Eviction: removing dead containers failed")
		}
	}
	if on.images {
		if err := m.DeleteUnusedImages(ctx); err != nil {
			log.Error(err, "Eviction: removing unused images failed")
		}
	}
	observed, _ := m.observer.observe(ctx)
	if len(observed.met(thresholds, true)) > 0 {
		return false
	}
	log.Info("Eviction: removing unused containers and images was enough")
	return true
}

// evictOne ends the first pod of the ranking that may be ended.
func (m *Manager) evictOne(ctx context.Context, pods []*corev1.Pod, t settings.EvictionThreshold, o observations, disks layout) []*corev1.Pod {
	if len(pods) == 0 {
		klog.FromContext(ctx).Error(nil, "Eviction: the node is short of a resource, but there is no pod to evict", "signal", t.Signal)
		return nil
	}
	used := m.usages(ctx, pods, meanings[t.Signal].condition == corev1.NodeDiskPressure)
	if ctx.Err() != nil {
		return nil
	}
	maps.DeleteFunc(used, func(_ types.UID, u *podUsage) bool { return u.partial }) // it would be taken for a small one
	ranked := rank(pods, used, t.Signal, disks)
	klog.FromContext(ctx).Info("Eviction: must evict a pod", "signal", t.Signal, "ranking", klog.KObjSlice(ranked))
	for _, pod := range ranked {
		message, annotations := explain(pod, used[pod.UID], t, o)
		e := Eviction{Pod: pod, GracePeriod: m.gracePeriod(pod, t), Message: message, Condition: &corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet,
			Message: message, ObservedGeneration: pod.Generation,
		}}
		if m.evict(ctx, e, annotations, t.Signal) {
			return []*corev1.Pod{pod}
		}
	}
	klog.FromContext(ctx).Info("Eviction: every pod on the node is critical")
	return nil
}

// gracePeriod is a second for a hard threshold, and for a soft one the pod's own, but no longer than the setting.
func (m *Manager) gracePeriod(pod *corev1.Pod, t settings.EvictionThreshold) *int64 {
	most := m.limits.Load().maxGrace
	switch {
	case t.GracePeriod == 0:
		return new(immediately)
	case most < 0:
		return nil
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		most = min(most, *pod.Spec.TerminationGracePeriodSeconds)
	}
	return &most
}

// evict ends a pod unless it is critical.
func (m *Manager) evict(ctx context.Context, e Eviction, annotations map[string]string, signal string) bool {
	log := klog.FromContext(ctx).WithValues("pod", klog.KObj(e.Pod), "podUID", e.Pod.UID)
	if podinfo.IsCritical(e.Pod) {
		log.Info("Eviction: not evicting a critical pod", "message", e.Message)
		return false
	}
	m.mu.Lock()
	again := m.evicted[e.Pod.UID]
	m.evicted[e.Pod.UID] = true
	m.mu.Unlock()
	if again {
		return false
	}
	log.Info("Eviction: evicting a pod", "message", e.Message)
	m.Events.AnnotatedEventf(e.Pod, annotations, corev1.EventTypeWarning, Reason, "%s", e.Message)
	m.evictions.WithLabelValues(signal).Inc()
	m.Kill(ctx, e)
	return true
}
