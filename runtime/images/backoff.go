package images

import (
	"maps"
	"sync"
	"time"
)

const (
	firstBackoff = 10 * time.Second
	maxBackoff   = 5 * time.Minute
)

// backoff says when a pod may try an image again: 10 seconds after the first failure, twice as long after each further one, up to
// 5 minutes. It keeps the last error, which the pod's status shows. (flowcontrol.Backoff does not tell when a back-off ends.)
type backoff struct {
	mu       sync.Mutex
	failures map[string]failure
}

type failure struct {
	at   time.Time
	wait time.Duration
	err  error
}

// check returns until when the key has to wait and why; a zero time for not at all.
func (b *backoff) check(key string) (until time.Time, last error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f, failed := b.failures[key]; failed && time.Since(f.at) < f.wait {
		return f.at.Add(f.wait), f.err
	}
	return time.Time{}, nil
}

// next records a failure, and forgets those that are too long ago. The next one counts as the first then.
func (b *backoff) next(key string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(b.failures, func(_ string, f failure) bool { return now.Sub(f.at) > 2*maxBackoff })
	b.failures[key] = failure{at: now, wait: min(max(2*b.failures[key].wait, firstBackoff), maxBackoff), err: err}
}
