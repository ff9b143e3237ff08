package images

import (
	"maps"
	"sync"
	"time"
)

// backoff says when a pod may try an image again: base after the first failure, twice as long after each further one,
// up to longest. A failure that long after the last one counts as the first.
//
// Upstream: staging/src/k8s.io/client-go/util/flowcontrol/backoff.go
type backoff struct {
	base, longest time.Duration
	mu            sync.Mutex
	failures      map[string]*failure
}

type failure struct {
	at   time.Time
	wait time.Duration
	err  error
}

func newBackoff(base, longest time.Duration) *backoff {
	return &backoff{base: base, longest: longest, failures: map[string]*failure{}}
}

// check returns until when the key has to wait and why.
func (b *backoff) check(key string, now time.Time) (until time.Time, last error, waiting bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.failures[key]
	if f == nil || now.Sub(f.at) >= f.wait {
		return time.Time{}, nil, false
	}
	return f.at.Add(f.wait), f.err, true
}

// next notes a failure, and forgets those that are too long ago.
func (b *backoff) next(key string, now time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.failures, func(_ string, f *failure) bool { return now.Sub(f.at) > 2*b.longest })
	wait := b.base
	if f := b.failures[key]; f != nil {
		wait = min(2*f.wait, b.longest)
	}
	b.failures[key] = &failure{at: now, wait: wait, err: err}
}
