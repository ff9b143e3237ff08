package stats

import (
	"sync"
	"time"

	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const (
	rateWindow = 10 * time.Second // over which usage is averaged, roughly
	rateAge    = 5 * time.Minute  // after which a reading is too old to say anything of now
)

// rates turns counters into usage per second, by remembering earlier readings.
type rates struct {
	mu    sync.Mutex
	known map[string]readings
}

// readings are two of the same counter; the older is what the newest is compared with, so that several clients that
// ask in quick succession do not get the average of an instant.
type readings struct{ older, newer reading }

type reading struct {
	at    time.Time
	nanos uint64
}

func newRates() *rates { return &rates{known: map[string]readings{}} }

// fill sets UsageNanoCores if it is missing and there is something to compare with.
func (r *rates) fill(key string, cpu *statsapi.CPUStats) {
	if cpu == nil || cpu.UsageCoreNanoSeconds == nil || cpu.UsageNanoCores != nil {
		return
	}
	now := reading{cpu.Time.Time, *cpu.UsageCoreNanoSeconds}
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.known[key]
	if now.nanos < k.newer.nanos { // another container by the same name
		k = readings{}
	}
	if k.newer.at.IsZero() || now.at.Sub(k.newer.at) >= rateWindow {
		k = readings{older: k.newer, newer: now}
		r.known[key] = k
	}
	base := k.older
	if base.at.IsZero() {
		base = k.newer
	}
	if d := now.at.Sub(base.at); d >= time.Second && d < rateAge && now.nanos >= base.nanos {
		cpu.UsageNanoCores = new(uint64(float64(now.nanos-base.nanos) / d.Seconds()))
	}
}

// forget drops what has not been read for a while.
func (r *rates) forget(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, k := range r.known {
		if now.Sub(k.newer.at) > rateAge {
			delete(r.known, key)
		}
	}
}
