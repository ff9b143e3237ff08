// Package watchdog makes it show when the sync loop stands still: in the log, and to the supervisor that started the
// kubelet (systemd, by sd_notify), which can start it again.
package watchdog

import (
	"context"
	"fmt"
	"runtime/pprof"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"k8s.io/klog/v2"
)

const (
	// minInterval is the shortest time that a supervisor may ask for.
	//
	// Upstream: pkg/kubelet/watchdog/watchdog_linux.go minimalNotifyInterval.
	minInterval = time.Second
	checkPeriod = 5 * time.Second
)

// Watchdog asks the sync loop for turns. Each turn that comes is a sign of life for the supervisor, and nothing else is.
//
// Upstream: pkg/kubelet/watchdog/watchdog_linux.go healthChecker, which asks /healthz.
type Watchdog struct {
	interval time.Duration // within which the supervisor wants to hear something; 0 if it does not
	pings    chan struct{} // unbuffered: the loop has taken what could be sent
}

// New returns a Watchdog. It fails when the environment holds what no supervisor says (WATCHDOG_USEC, WATCHDOG_PID).
func New() (*Watchdog, error) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("read what the supervisor wants (WATCHDOG_USEC, WATCHDOG_PID): %w", err)
	}
	if interval != 0 && interval <= minInterval {
		return nil, fmt.Errorf("the supervisor's watchdog (WATCHDOG_USEC) wants to hear something every %v, want more than %v", interval, minInterval)
	}
	return &Watchdog{interval: interval, pings: make(chan struct{})}, nil
}

// Pings are for the sync loop to take, one with each turn.
func (w *Watchdog) Pings() <-chan struct{} { return w.pings }

// Run reports to the supervisor until ctx ends, and logs what all goroutines do when healthy begins to return an error.
func (w *Watchdog) Run(ctx context.Context, healthy func() error) {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { w.report(ctx) })
	tick := time.NewTicker(checkPeriod)
	defer tick.Stop()
	stalled := false
	for {
		select {
		case <-ctx.Done():
			notify(ctx, daemon.SdNotifyStopping)
			return
		case <-tick.C:
		}
		err := healthy()
		if err != nil && !stalled {
			klog.FromContext(ctx).Error(err, "The sync loop stands still", "goroutines", goroutines())
		}
		stalled = err != nil
	}
}

// report tells the supervisor of the first turn and, often enough, of later ones.
func (w *Watchdog) report(ctx context.Context) {
	state := daemon.SdNotifyReady
	for {
		select {
		case <-ctx.Done():
			return
		case w.pings <- struct{}{}:
		}
		notify(ctx, state)
		if w.interval == 0 {
			return
		}
		state = daemon.SdNotifyWatchdog
		select {
		case <-ctx.Done():
			return
		case <-time.After(w.interval / 2):
		}
	}
}

// notify does nothing without a supervisor that listens.
func notify(ctx context.Context, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		klog.FromContext(ctx).Error(err, "Telling the supervisor failed", "state", state)
	}
}

// goroutines is where each goroutine stands, and for how long.
func goroutines() string {
	var all strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&all, 2); err != nil {
		return err.Error()
	}
	return all.String()
}
