package kubelet

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

const (
	// calm is how long no garbage was collected when a burst of work is over.
	calm = 10 * time.Second
	// burst is how many collections make one: a kubelet with nothing to do collects once in a minute or so.
	burst = 2
)

// releaseMemory gives the system back what a burst of work, such as the start of many pods, needed. Go's runtime would
// keep it until the next collection, which is minutes away once there is nothing to do, and return it slowly then.
func releaseMemory(ctx context.Context) {
	collected := make(chan struct{}, 1)
	onCollection(ctx, collected)
	releaseAfterBursts(ctx, collected, debug.FreeOSMemory)
}

func releaseAfterBursts(ctx context.Context, collected <-chan struct{}, release func()) {
	over := time.NewTimer(calm)
	defer over.Stop()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-collected:
			n++
			over.Reset(calm)
		case <-over.C:
			if n >= burst {
				release() // collects once, which is no burst
			}
			n = 0
		}
	}
}

// onCollection sends on collected after every garbage collection until ctx ends: it makes an object that nothing refers to,
// whose cleanup runs when it is collected.
func onCollection(ctx context.Context, collected chan<- struct{}) {
	type garbage struct{ _ *byte } // with a pointer, so that it shares no memory with others
	runtime.AddCleanup(&garbage{}, func(collected chan<- struct{}) {
		if ctx.Err() != nil {
			return
		}
		onCollection(ctx, collected) // before the send, since the receiver may collect at once
		select {
		case collected <- struct{}{}:
		default:
		}
	}, collected)
}
