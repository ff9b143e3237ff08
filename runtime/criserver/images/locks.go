package images

import (
	"context"
	"sync"
)

// locks is a mutex for each key, which can be waited for with a context.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when the key is free again
}

// lock returns the function that unlocks.
func (l *locks) lock(ctx context.Context, key string) (func(), error) {
	for {
		l.mu.Lock()
		free := l.held[key]
		if free == nil {
			break
		}
		l.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[string]chan struct{}{}
	}
	free := make(chan struct{})
	l.held[key] = free
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, key)
		close(free)
	}, nil
}

// flights lets callers who want the same thing share the work. It ends early only when all of them have gone, which is
// what x/sync/singleflight cannot do.
type flights struct {
	mu     sync.Mutex
	flying map[string]*flight
}

type flight struct {
	done    chan struct{}
	callers int
	cancel  context.CancelFunc
	id      string
	err     error
}

// do runs fn, or waits for the one that runs for the same key.
func (f *flights) do(ctx context.Context, key string, fn func(context.Context) (string, error)) (string, error) {
	f.mu.Lock()
	fl := f.flying[key]
	if fl == nil {
		if f.flying == nil {
			f.flying = map[string]*flight{}
		}
		work, cancel := context.WithCancel(context.WithoutCancel(ctx))
		fl = &flight{done: make(chan struct{}), cancel: cancel}
		f.flying[key] = fl
		go func() {
			defer close(fl.done)
			fl.id, fl.err = fn(work)
			f.leave(key, fl, 0)
		}()
	}
	fl.callers++
	f.mu.Unlock()
	select {
	case <-fl.done:
		return fl.id, fl.err
	case <-ctx.Done():
	}
	if f.leave(key, fl, 1) {
		<-fl.done // nothing goes on behind the back of the last caller
	}
	return "", context.Cause(ctx)
}

// leave takes callers away from a flight. The last one, or the work itself when it is done, ends it: the next caller
// starts anew.
func (f *flights) leave(key string, fl *flight, callers int) (ended bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.callers -= callers
	if callers > 0 && fl.callers > 0 {
		return false
	}
	fl.cancel()
	if f.flying[key] == fl {
		delete(f.flying, key)
	}
	return true
}
