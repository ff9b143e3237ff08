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
