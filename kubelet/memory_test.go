package kubelet

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// TestOnCollection: each collection is told of, until the context ends.
func TestOnCollection(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	collected := make(chan struct{}, 1)
	onCollection(ctx, collected)
	for range 3 {
		runtime.GC()
		<-collected
	}
	cancel()
}

// TestReleaseMemory: memory is released once after a burst, and not after less.
func TestReleaseMemory(t *testing.T) {
	for _, tt := range []struct {
		name        string
		collections []time.Duration // after the one before
		want        int
	}{
		{name: "nothing happens"},
		{name: "now and then", collections: []time.Duration{2 * time.Minute, 2 * time.Minute, 2 * time.Minute, 2 * time.Minute}},
		{name: "too few", collections: []time.Duration{time.Second, time.Minute, 11 * time.Second}},
		{name: "a burst", collections: []time.Duration{time.Second, time.Second, time.Second}, want: 1},
		{name: "a long one", collections: []time.Duration{0, 9 * time.Second, 9 * time.Second, 9 * time.Second, 9 * time.Second}, want: 1},
		{name: "two", collections: []time.Duration{0, 0, time.Minute, 0}, want: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				released := 0
				collected := make(chan struct{})
				go releaseAfterBursts(t.Context(), collected, func() { released++ })
				for _, pause := range tt.collections {
					time.Sleep(pause)
					collected <- struct{}{}
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if released != tt.want {
					t.Errorf("released %d times, want %d", released, tt.want)
				}
			})
		})
	}
}
