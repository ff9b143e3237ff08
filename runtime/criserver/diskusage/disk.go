package diskusage

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// Usage is what a directory took at a time.
type Usage struct {
	Bytes, Inodes int64
	At            time.Time
}

// ErrNotMeasured says that a directory was not measured to its end yet. The usage beside it is what is known so far.
var ErrNotMeasured = errors.New("the directory is still being measured")

const (
	quickWalks = 4               // how many directories are measured at once
	quickTime  = time.Second     // after which a directory counts as a slow one
	maxTime    = 5 * time.Minute // after which a walk ends, and what it has counted is taken for all
	restFactor = 20              // a directory is left alone so many times as long as its last measurement took
	forgetTime = 10 * time.Minute
)

// Disk measures directories in the background and remembers what it found. Those that take long are measured one at a
// time, so that a container with millions of files neither holds up the others nor keeps the node busy. Meanwhile its
// last usage counts.
type Disk struct {
	ctx         context.Context //nolint:containedctx // a measurement outlives the question that it is made for
	quick, slow chan struct{}   // a value for each walk that runs

	mu    sync.Mutex
	known map[string]*directory
}

// directory is what is known of one.
type directory struct {
	usage Usage         // the last that is complete; At is zero if there is none
	sofar Usage         // counted by the walk that runs
	err   error         // of the last walk
	took  time.Duration // by the last walk
	ended time.Time     // when that was
	asked time.Time     // when its usage was last asked for
	done  chan struct{} // closed when the walk that runs ends; nil if none does
}

// NewDisk returns a Disk whose measurements end with ctx.
func NewDisk(ctx context.Context) *Disk {
	return &Disk{ctx: ctx, quick: make(chan struct{}, quickWalks), slow: make(chan struct{}, 1), known: map[string]*directory{}}
}

// Usage returns what is below a directory, at most maxAge old if that can be found out until ctx ends and without
// measuring all the time. After that it returns the last usage, or ErrNotMeasured if there is none. A directory that is
// not there uses nothing.
func (d *Disk) Usage(ctx context.Context, dir string, maxAge time.Duration) (Usage, error) {
	d.mu.Lock()
	now := time.Now()
	k := d.known[dir]
	if k == nil {
		k = &directory{}
		d.known[dir] = k
	}
	k.asked = now
	maps.DeleteFunc(d.known, func(_ string, other *directory) bool { return other.done == nil && now.Sub(other.asked) > forgetTime })
	if k.done == nil && (k.ended.IsZero() || now.Sub(k.ended) >= max(maxAge, restFactor*k.took)) {
		k.done = make(chan struct{})
		go d.measure(dir, k)
	}
	done := k.done
	d.mu.Unlock()
	if done != nil {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case k.done == nil && k.err != nil:
		return Usage{}, k.err
	case k.usage.At.IsZero():
		k.sofar.At = time.Now()
		return k.sofar, ErrNotMeasured
	}
	return k.usage, nil
}

// measure walks once. It begins among the quick ones, and waits for the slow ones before it when it takes long.
func (d *Disk) measure(dir string, k *directory) {
	lane := d.quick
	lane <- struct{}{}
	defer func() { <-lane }()
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	start, waited, enough := time.Now(), time.Duration(0), false
	sum, err := diskUsage(ctx, dir, func(sofar Usage) {
		d.mu.Lock()
		k.sofar = sofar
		d.mu.Unlock()
		walked := time.Since(start) - waited
		if walked > maxTime {
			enough = true
			cancel()
		}
		if lane == d.slow || walked < quickTime {
			return
		}
		<-lane
		lane = d.slow
		before := time.Now()
		lane <- struct{}{} // the walk before ends in bounded time
		waited = time.Since(before)
	})
	if enough && errors.Is(err, context.Canceled) && d.ctx.Err() == nil {
		klog.FromContext(d.ctx).Info("A directory has too many files to count them all; what was counted is taken for all", "directory", dir, "files", sum.Inodes)
		err = nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	k.err, k.took, k.ended, k.sofar = err, time.Since(start)-waited, time.Now(), Usage{}
	if err == nil {
		k.usage, k.usage.At = sum, k.ended
	}
	close(k.done)
	k.done = nil
}
