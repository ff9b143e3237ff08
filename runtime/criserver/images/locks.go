package images

import (
	"context"
	"sync"
)

// locks is a mutex for each key, which can be waited for with a context.
type locks struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	holder chan struct{} // holds one element while someone holds the key
	users  int           // the holder and those who wait
}

// lock returns the function that unlocks.
func (l *locks) lock(ctx context.Context, key string) (func(), error) {
	l.mu.Lock()
	k := l.held[key]
	if k == nil {
		if l.held == nil {
			l.held = map[string]*keyLock{}
		}
		k = &keyLock{holder: make(chan struct{}, 1)}
		l.held[key] = k
	}
	k.users++
	l.mu.Unlock()
	select {
	case k.holder <- struct{}{}:
		return func() { <-k.holder; l.leave(key, k) }, nil
	case <-ctx.Done():
		l.leave(key, k)
		return nil, context.Cause(ctx)
	}
}

func (l *locks) leave(key string, k *keyLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, key)
	}
}

// flights lets callers who want the same thing share the work. It ends early only when all of them have gone.
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
		fl = f.start(ctx, key, fn)
	}
	fl.callers++
	f.mu.Unlock()
	select {
	case <-fl.done:
		return fl.id, fl.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	last := fl.callers == 1
	if fl.callers--; last {
		fl.cancel()
		if f.flying[key] == fl { // the next caller starts anew
			delete(f.flying, key)
		}
	}
	f.mu.Unlock()
	if last {
		<-fl.done // nothing goes on behind the back of the last caller
	}
	return "", context.Cause(ctx)
}

// start must be called with f.mu held.
func (f *flights) start(ctx context.Context, key string, fn func(context.Context) (string, error)) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	fl := &flight{done: make(chan struct{}), cancel: cancel}
	f.flying[key] = fl
	go func() {
		defer cancel()
		fl.id, fl.err = fn(ctx)
		f.mu.Lock()
		if f.flying[key] == fl {
			delete(f.flying, key)
		}
		f.mu.Unlock()
		close(fl.done)
	}()
	return fl
}
