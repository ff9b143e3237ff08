// Package probes runs the liveness, readiness and startup probes of containers, one goroutine for each probe.
package probes

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// Kind is what a probe is for.
type Kind string

// The kinds of probes.
const (
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
	Startup   Kind = "Startup"
)

// Update says that a probe's verdict on a container changed.
//
// Upstream: pkg/kubelet/prober/results/results_manager.go Update.
type Update struct {
	PodUID        types.UID
	ContainerID   string
	ContainerName string
	Kind          Kind
	Success       bool
}

// Options are how containers are reached.
type Options struct {
	// Exec runs a command in a container. A command that ends with another code than 0 is no error.
	Exec func(ctx context.Context, containerID string, command []string, timeout time.Duration) (output []byte, code int, err error)
	// Observed returns the newest reading of a pod.
	Observed func(types.UID) (*cri.PodStatus, bool)
	// Starting tells of a running container that its postStart hook has not returned; it is probed afterwards. May be nil.
	Starting func(containerID string) bool
	// HostIPs are the node's addresses, for pods on its network; the first one's family is the one that pods are probed in. May be nil.
	HostIPs func() []string
	Events  record.EventRecorder
	// Registerer is that of /metrics/probes; may be nil.
	Registerer prometheus.Registerer
}

// Manager runs probes.
type Manager struct {
	opts    Options
	metrics *metrics
	// updates is written by the probes' goroutines and read by the sync loop. When it is full, a probe waits with a
	// verdict that is recorded already, and holds no lock.
	updates chan Update
	started time.Time

	mu      sync.Mutex
	workers map[probeKey]*worker
	results map[resultKey]verdict // until the pod's probes are removed, or the container has a successor
}

type verdict struct {
	pod     types.UID
	success bool
}

type probeKey struct {
	pod       types.UID
	container string
	kind      Kind
}

type resultKey struct {
	containerID string
	kind        Kind
}

// New returns a Manager.
func New(opts Options) *Manager {
	if opts.Starting == nil {
		opts.Starting = func(string) bool { return false }
	}
	if opts.HostIPs == nil {
		opts.HostIPs = func() []string { return nil }
	}
	return &Manager{
		opts: opts, metrics: newMetrics(opts.Registerer), updates: make(chan Update, 100), started: time.Now(),
		workers: map[probeKey]*worker{}, results: map[resultKey]verdict{},
	}
}

// Results is where changed verdicts come out, for one reader.
func (m *Manager) Results() <-chan Update { return m.updates }

// Get returns a probe's verdict on a container, and whether there is one yet.
func (m *Manager) Get(containerID string, kind Kind) (success, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, known := m.results[resultKey{containerID, kind}]
	return v.success, known
}

// Add starts the pod's probes that do not run yet; they end with ctx, or by Remove.
func (m *Manager) Add(ctx context.Context, pod *corev1.Pod) {
	for c := range podinfo.LastingContainers(pod) {
		for kind, probe := range map[Kind]*corev1.Probe{Liveness: c.LivenessProbe, Readiness: c.ReadinessProbe, Startup: c.StartupProbe} {
			if probe != nil {
				m.add(ctx, pod, c, kind, probe)
			}
		}
	}
}

func (m *Manager) add(ctx context.Context, pod *corev1.Pod, c *corev1.Container, kind Kind, probe *corev1.Probe) {
	key := probeKey{pod.UID, c.Name, kind}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.workers[key] != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &worker{manager: m, pod: pod, container: c, kind: kind, probe: probe, cancel: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	m.workers[key] = w
	go func() {
		defer close(w.done)
		w.run(ctx)
	}()
}

// Remove ends the pod's probes and forgets their verdicts.
func (m *Manager) Remove(uid types.UID) {
	m.end(uid, Liveness, Readiness, Startup)
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.results, func(_ resultKey, v verdict) bool { return v.pod == uid })
}

// StopLivenessAndStartup ends the probes that could restart a container of a pod that is ending. Readiness goes on,
// since the pod still serves.
func (m *Manager) StopLivenessAndStartup(uid types.UID) {
	m.end(uid, Liveness, Startup)
}

func (m *Manager) end(uid types.UID, kinds ...Kind) {
	m.mu.Lock()
	var ended []*worker
	for key, w := range m.workers {
		if key.pod == uid && slices.Contains(kinds, key.kind) {
			delete(m.workers, key)
			ended = append(ended, w)
		}
	}
	m.mu.Unlock()
	for _, w := range ended {
		w.cancel()
		<-w.done
		m.metrics.forget(w)
	}
}

func (m *Manager) forget(containerID string, kind Kind) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.results, resultKey{containerID, kind})
}

// set records a verdict, and sends it to Results if it differs from the one before.
func (m *Manager) set(ctx context.Context, w *worker, success bool) {
	key := resultKey{w.containerID, w.kind}
	m.mu.Lock()
	before, known := m.results[key]
	m.results[key] = verdict{w.pod.UID, success}
	var wake []*worker
	if w.kind == Startup && success {
		for other, o := range m.workers {
			if other.pod == w.pod.UID && other.container == w.container.Name && other.kind != Startup {
				wake = append(wake, o)
			}
		}
	}
	m.mu.Unlock()
	if known && before.success == success {
		return
	}
	cri.Mark(ctx, "probe", w.pod, fmt.Sprintf("%s of container %s: success is %t", w.kind, w.container.Name, success))
	for _, o := range wake {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
	select {
	case m.updates <- Update{PodUID: w.pod.UID, ContainerID: w.containerID, ContainerName: w.container.Name, Kind: w.kind, Success: success}:
	case <-ctx.Done():
	}
}

// Seed takes over verdicts from the pod's status after a restart of the kubelet, so that a ready pod does not become unready
// until its containers are probed again.
func (m *Manager) Seed(pod *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			c := &list[i]
			_, id, ok := strings.Cut(c.ContainerID, "://")
			if !ok || c.State.Running == nil {
				continue
			}
			m.seed(resultKey{id, Readiness}, pod.UID, c.Ready)
			m.seed(resultKey{id, Startup}, pod.UID, ptr.Deref(c.Started, false))
		}
	}
}

// seed records a good verdict. Bad ones are left to the next probe. Callers hold mu.
func (m *Manager) seed(key resultKey, pod types.UID, good bool) {
	if _, known := m.results[key]; !known && good {
		m.results[key] = verdict{pod, true}
	}
}
