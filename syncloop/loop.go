// Package syncloop is the kubelet's main loop: one goroutine, one select. It gets pods from config, changes of containers from
// the PLEG, results of probes and ticks of a clock, and tells pod workers to act. It never blocks: it does not act itself, it
// takes no lock under which something is sent, and it sends only to mailboxes that have room.
package syncloop

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"minikubelet/config"
	"minikubelet/podworkers"
	"minikubelet/podworkers/probes"
	"minikubelet/runtime/allocation"
	"minikubelet/runtime/pleg"
	"minikubelet/status"
)

// Options are what the loop listens to and whom it tells. Mirror is nil without an apiserver.
type Options struct {
	Config  *config.Config
	PLEG    *pleg.PLEG
	Probes  *probes.Manager
	Resync  <-chan types.UID // pods one of whose volumes or secrets changed
	Workers *podworkers.Workers
	Pods    *Pods
	Status  *status.Manager
	Mirror  *status.Mirror
	Events  record.EventRecorder
	Node    podworkers.NodeFacts
	// Allocatable returns what pods may request in all, with devices, as it counts for one of them; nil where there are none.
	Allocatable func(pod types.UID, others corev1.ResourceList) corev1.ResourceList
	// Allocation knows what pods were given; by default a store of the loop's own.
	Allocation *allocation.Store // part: allocation, runtime/allocation
	// UpdateQOS is given all pods that use the node, at each housekeeping; one call at a time; may be nil.
	UpdateQOS func(active []*corev1.Pod) error
	// Clean removes what ended pods left on disk, every cleanPeriod; one call at a time.
	Clean func(ctx context.Context, known func(types.UID) bool) error

	// Ready is closed when pods can be started; nil if they always can.
	Ready <-chan struct{}
	// ShuttingDown tells whether the machine goes down; nil for never.
	ShuttingDown func() bool // part: graceful shutdown, kubelet/shutdown
	// Pressure is what the node is short of; nil for never anything.
	Pressure func() []corev1.NodeConditionType // part: eviction, kubelet/eviction
	// CheckSysctls tells of a sysctl that a pod may not set here.
	CheckSysctls func(*corev1.Pod) error
	// Infeasible is why a pod cannot be resized while it runs, "" if it can; may be nil.
	Infeasible func(wanted, has *corev1.Pod) string
	// AppArmor is why pods cannot have a profile, nil if they can.
	AppArmor   error // part: AppArmor, syncloop/apparmor.go
	MaxPods    int
	Registerer prometheus.Registerer // may be nil
	// Ping makes the loop turn; a sender learns that it does. May be nil.
	Ping <-chan struct{}
}

// housekeepingPeriod is how often the loop looks for pods that no source has any more.
// The look costs a comparison of two sets in memory.
//
// Upstream: pkg/kubelet/kubelet.go housekeepingPeriod.
const housekeepingPeriod = 2 * time.Second

// Loop is the kubelet's main loop.
type Loop struct {
	Options
	metrics  *metrics                  // part: metrics of the loop, syncloop/metrics.go
	lastTurn atomic.Pointer[time.Time] // nil before the first
	given    map[types.UID]*corev1.Pod // the pods that the node took, with the resources that they were given

	// What parts keep in mind.
	resizes    map[types.UID]bool   // pods that ask for other resources than they were given
	refused    map[types.UID]string // static pods that find no room on the node, with why
	waiting    map[types.UID]bool   // pods that the node took and that wait until others have ended
	room       chan types.UID       // those of them that need wait no more
	recalled   map[types.UID]bool   // static pods that ran before the kubelet, of which their mirrors will tell more
	lastResize time.Time
	lastGC     time.Time

	cleaning, deletingMirrors, updatingQOS atomic.Bool // a goroutine does so
}

// New returns a loop; Run starts it.
func New(opts Options) *Loop {
	if opts.Allocation == nil {
		opts.Allocation = allocation.New("")
	}
	return &Loop{
		Options: opts, metrics: newMetrics(opts.Registerer), given: map[types.UID]*corev1.Pod{}, room: make(chan types.UID),
		resizes: map[types.UID]bool{}, recalled: map[types.UID]bool{}, refused: map[types.UID]string{}, waiting: map[types.UID]bool{},
	}
}

// Run turns the loop until ctx ends, then waits for the workers to stop. Pods go on running.
func (l *Loop) Run(ctx context.Context) {
	housekeeping := time.NewTicker(housekeepingPeriod)
	defer housekeeping.Stop()
	// What a new pod needs depends on which pods run already. So none is handled before the runtime has been read once and
	// pods can be started.
	var updates <-chan config.PodUpdate
	synced, ready := l.PLEG.Synced(), l.Ready
	for {
		l.lastTurn.Store(new(time.Now())) // part: health of the loop, syncloop/health.go
		select {
		case <-ctx.Done():
			l.Workers.Wait()
			l.saveAllocations(ctx)
			return
		case <-synced:
			if synced, ready = ready, nil; synced == nil {
				updates = l.Config.Updates()
			}
			continue
		default:
		}
		l.syncLoopIteration(ctx, synced, updates, housekeeping.C)
	}
}

// syncLoopIteration handles one event. It reads from these channels; beside each is its capacity, what writes there, and what
// happens when it is full:
//
//   - config's updates: 50, a pod source each. The source waits, without a lock that the loop takes.
//   - the PLEG's bell: 1, of the runtime's event stream and relists. The pods that changed are in a set beside it.
//   - probe results: 100, of the probes' goroutines. The probe waits, its verdict is recorded already.
//   - resyncs: 100, of the watches of Secrets, ConfigMaps and the like. The watch waits, without a lock.
//   - room: none, of a goroutine for each pod that waits for room. It waits.
//   - pings: none, of the watchdog, which waits for them to be taken.
//
// What the loop writes to never makes it wait: a worker's mailbox keeps the newest update, and its bell one ring; the status
// manager's queue grows with the number of pods; the recorder drops events when 1000 wait. The apiserver, the cleaning and
// the cgroups are called from goroutines of their own, one of a kind at a time.
func (l *Loop) syncLoopIteration(ctx context.Context, synced <-chan struct{}, updates <-chan config.PodUpdate, housekeeping <-chan time.Time) {
	log := klog.FromContext(ctx)
	select {
	case <-ctx.Done():
	case <-synced:
	case u := <-updates:
		l.handleUpdate(ctx, u)
		if l.Config.Handled(u) {
			l.resizePods(ctx) // resizes wait for all sources
		}
	case <-l.PLEG.Bell():
		for _, uid := range l.PLEG.Changed() {
			log.V(2).Info("SyncLoop (PLEG)", "podUID", uid)
			l.Workers.Poke(uid, "the runtime says that something of it changed")
		}
	case r := <-l.Probes.Results():
		log.V(2).Info("SyncLoop (probe)", "podUID", r.PodUID, "container", r.ContainerName, "kind", r.Kind, "success", r.Success)
		l.Workers.Poke(r.PodUID, "a probe came to another result")
	case uid := <-l.Resync:
		log.V(2).Info("SyncLoop (sync)", "podUID", uid)
		l.Workers.Poke(uid, "a Secret, a ConfigMap or the like that it uses changed, or the node")
	case uid := <-l.room:
		l.startWaiting(ctx, uid)
	case <-l.Ping:
	case <-housekeeping:
		l.housekeeping(ctx)
	}
}
