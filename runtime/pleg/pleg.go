// Package pleg is the pod lifecycle event generator. It keeps the cache of what the runtime says of pods and tells which
// pods changed. The runtime's own events come first: they carry the new state, so that following them costs no calls. A
// list of all pods once a minute is the net below; with a runtime without events it comes every second.
package pleg

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/runtime/cri"
)

const (
	reconnectPeriod = time.Second // of a broken event stream; the client fails at once while the runtime is away
	reprobePeriod   = time.Minute // of a runtime without events: it may have been replaced

	relistPeriod        = time.Second     // while there are no events
	eventedRelistPeriod = time.Minute     // while there are
	relistThreshold     = 3 * time.Minute // how long to be out of touch is unhealthy
)

// Options is everything a PLEG needs. CRI and Cache are required.
type Options struct {
	CRI        *cri.Client
	Cache      *Cache
	Registerer prometheus.Registerer // may be nil
}

// PLEG follows the runtime.
//
// Upstream: pkg/kubelet/pleg/evented.go, generic.go
type PLEG struct {
	Options
	metrics *metrics
	bell    chan struct{} // there are changed pods; capacity 1, since one ring is enough for all of them
	synced  chan struct{}
	kick    chan struct{} // relist now

	mu           sync.Mutex
	streaming    bool                   // the event stream is open
	relistedOnce bool                   // since the stream was opened
	seen         time.Time              // when the runtime last answered or sent something
	changed      map[types.UID]struct{} // pods that changed since Changed was called
}

// New returns a PLEG; Run starts it.
func New(options Options) *PLEG {
	return &PLEG{
		Options: options,
		metrics: newMetrics(options.Registerer, options.Cache),
		bell:    make(chan struct{}, 1),
		synced:  make(chan struct{}),
		kick:    make(chan struct{}, 1),
		changed: map[types.UID]struct{}{},
	}
}

// Bell rings when pods have changed. Call Changed then.
func (p *PLEG) Bell() <-chan struct{} { return p.bell }

// Changed returns the pods that changed since it was last called, sorted. What changed is in the cache.
func (p *PLEG) Changed() []types.UID {
	p.mu.Lock()
	defer p.mu.Unlock()
	uids := slices.Sorted(maps.Keys(p.changed))
	clear(p.changed)
	return uids
}

// Synced is closed when the cache has every pod that ran before the kubelet started.
func (p *PLEG) Synced() <-chan struct{} { return p.synced }

// Run follows the runtime until ctx ends.
func (p *PLEG) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { p.streamLoop(ctx) })
	running.Go(func() { p.relistLoop(ctx) })
	running.Wait()
}

// relistNow asks for a relist; several requests are one.
func (p *PLEG) relistNow() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// tell adds the pod to the changed ones if its worker has to look at it. It never waits for the reader.
func (p *PLEG) tell(old, now *cri.PodStatus) {
	if !changed(old, now) {
		return
	}
	uid := cmp.Or(now, old).UID
	p.mu.Lock()
	p.changed[uid] = struct{}{}
	p.mu.Unlock()
	select {
	case p.bell <- struct{}{}:
	default:
	}
}
