// Package podworkers runs one goroutine per pod. Each has a mailbox that keeps only the newest update, and moves its pod
// through the phases of phase.go.
package podworkers

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"minikubelet/podworkers/objects"
	"minikubelet/podworkers/probes"
	"minikubelet/podworkers/volumes"
	"minikubelet/runtime"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/pleg"
	"minikubelet/runtime/spec"
	"minikubelet/status"
)

// Options are what workers need. Mirror is nil without an apiserver, Devices where there are none.
type Options struct {
	Runtime *runtime.Runtime
	Cache   *pleg.Cache
	Volumes *volumes.Manager // part: volumes, podworkers/volumes
	Objects *objects.Manager // part: Secrets ConfigMaps and tokens, podworkers/objects
	Probes  *probes.Manager  // part: probes, podworkers/probes
	Status  *status.Manager
	Mirror  *status.Mirror // part: mirror pods, status/mirror.go
	Events  record.EventRecorder
	Node    NodeFacts
	Devices Devices // part: devices, kubelet/devices

	Registerer prometheus.Registerer // may be nil
}

// NodeFacts is what pods need to know of the node they run on.
type NodeFacts interface {
	// Node is the node's current object.
	Node() *corev1.Node
	// HostIPs are the node's addresses, the primary first; none while only a cloud controller knows them.
	HostIPs() []string
	// Allocatable is what pods may request in all.
	Allocatable() corev1.ResourceList
	// NetworkReady tells why pods without host networking cannot start yet, nil if they can.
	NetworkReady() error
	// RuntimeName is what container IDs begin with, before ://.
	RuntimeName() string
}

// Update is one message to a pod's worker.
type Update struct {
	// Pod is the newest version of the pod; UpdatePod needs it.
	Pod *corev1.Pod
	// Kill ends the pod; a pod with a deletion timestamp ends without it.
	Kill *Kill

	runtimeOnly bool // the pod has been made up from what the runtime knows
}

// Kill says how a pod ends. Once given it holds: later kills can only shorten it.
type Kill struct {
	// GracePeriod in seconds replaces the pod's own when it is shorter.
	GracePeriod *int64
	// Override is the phase, reason and message of a pod that the node ends on
	// its own account (rejected, evicted, over its deadline).
	Override *status.Override
}

// Workers owns the workers of all pods.
//
// Upstream: pkg/kubelet/pod_workers.go podWorkers.
type Workers struct {
	opts    Options
	metrics *metrics // part: metrics of workers, podworkers/metrics.go

	mu      sync.Mutex
	running sync.WaitGroup
	byUID   map[types.UID]*worker
	// names tells which static pod has a full name. Another that comes with the name waits until nothing of it runs.
	names map[string]types.UID // part: names of static pods, podworkers/names.go
}

// New returns Workers without any pod.
func New(opts Options) *Workers {
	ws := &Workers{opts: opts, byUID: map[types.UID]*worker{}, names: map[string]types.UID{}}
	ws.metrics = newMetrics(opts.Registerer, ws)
	return ws
}

// UpdatePod hands an update to the pod's worker, and starts the worker if there is none. It never blocks. The worker lives
// until ctx ends or its pod is gone.
func (ws *Workers) UpdatePod(ctx context.Context, u Update) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.update(ctx, u)
}

// update is UpdatePod for callers that hold mu.
func (ws *Workers) update(ctx context.Context, u Update) {
	w := ws.byUID[u.Pod.UID]
	if w == nil {
		w = newWorker(ws, u.Pod)
		ws.byUID[u.Pod.UID] = w
		ws.metrics.began(u.Pod, w.seenAt)
		ctx := klog.NewContext(ctx, klog.FromContext(ctx).WithValues("pod", klog.KObj(u.Pod), "podUID", w.uid))
		ws.running.Go(func() {
			if w.run(ctx) {
				ws.drop(ctx, w)
			}
		})
	}
	w.deliver(u)
}

// Kill ends a pod that its source still has. Without a worker there is nothing to end.
func (ws *Workers) Kill(uid types.UID, k Kill) {
	if w := ws.worker(uid); w != nil {
		w.deliver(Update{Kill: &k})
	}
}

// Cleaned is closed when nothing of the pod is left but its record and its logs.
func (ws *Workers) Cleaned(uid types.UID) <-chan struct{} {
	if w := ws.worker(uid); w != nil {
		return w.cleaned
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

// Poke makes the pod's worker take another step, if there is one.
func (ws *Workers) Poke(uid types.UID, why string) {
	if w := ws.worker(uid); w != nil {
		w.poke(why)
	}
}

// Removed tells the worker that no source has its pod any more: the pod ends if it still runs, its containers and logs are
// removed, and the worker ends.
func (ws *Workers) Removed(uid types.UID) {
	if w := ws.worker(uid); w != nil {
		w.remove()
	}
}

// Phase returns the phase of the pod, and whether it has a worker. A pod that has to end counts as Terminating at once.
func (ws *Workers) Phase(uid types.UID) (Phase, bool) {
	w := ws.worker(uid)
	if w == nil {
		return Syncing, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.phase == Syncing && w.killRequested() {
		return Terminating, true
	}
	return w.phase, true
}

// UIDs returns the pods that have a worker.
func (ws *Workers) UIDs() []types.UID {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	uids := make([]types.UID, 0, len(ws.byUID))
	for uid := range ws.byUID {
		uids = append(uids, uid)
	}
	return uids
}

// Wait returns when every worker has stopped, after the context given to UpdatePod ended.
func (ws *Workers) Wait() { ws.running.Wait() }

func (ws *Workers) worker(uid types.UID) *worker {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.byUID[uid]
}

// EndOrphan ends a pod that the runtime has and no source.
func (ws *Workers) EndOrphan(ctx context.Context, uid types.UID) {
	observed, ok := ws.opts.Cache.Get(uid)
	if !ok {
		return
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.endOrphan(ctx, observed)
}

// endOrphan is EndOrphan for callers that hold mu.
func (ws *Workers) endOrphan(ctx context.Context, observed *cri.PodStatus) {
	ws.metrics.runtimeOnly.Inc()
	ws.update(ctx, Update{Pod: spec.OrphanPod(observed), Kill: &Kill{}, runtimeOnly: true})
	ws.byUID[observed.UID].remove()
}

// drop forgets the worker of a pod that is gone. If the pod has come back meanwhile, it gets another worker.
func (ws *Workers) drop(ctx context.Context, w *worker) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.byUID, w.uid)
	w.mu.Lock()
	next := w.next
	w.mu.Unlock()
	if next != nil {
		klog.FromContext(ctx).Info("The pod has come back while it ended, and starts again")
		ws.metrics.restart(next.Pod)
		ws.update(ctx, *next)
	}
}
