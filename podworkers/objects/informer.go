package objects

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// Informer watches the objects of a kind from the first time that one is asked for.
type Informer struct {
	What    string // names them in errors
	Kind    runtime.Object
	Watch   func() cache.ListerWatcher
	Changed func(object any) // may be nil

	mu         sync.Mutex
	cancel     context.CancelFunc // nil until it is started
	stopped    chan struct{}
	store      cache.Store
	controller cache.Controller
}

func (i *Informer) start() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.cancel != nil {
		return
	}
	var ctx context.Context
	ctx, i.cancel = context.WithCancel(context.Background())
	i.stopped = make(chan struct{})
	tell := i.Changed
	if tell == nil {
		tell = func(any) {}
	}
	i.store, i.controller = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: i.Watch(), ObjectType: i.Kind,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    tell,
			UpdateFunc: func(_, now any) { tell(now) },
			DeleteFunc: func(last any) {
				if unknown, ok := last.(cache.DeletedFinalStateUnknown); ok {
					last = unknown.Obj
				}
				tell(last)
			},
		},
		Transform: func(obj any) (any, error) { return trim(obj), nil },
	})
	go func() {
		defer close(i.stopped)
		i.controller.RunWithContext(ctx)
	}()
}

// Read starts the watch if need be, and returns its store once that has all there is.
func (i *Informer) Read(ctx context.Context) (cache.Store, error) {
	i.start()
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	select {
	case <-i.controller.HasSyncedChecker().Done():
		return i.store, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("the apiserver has not listed %s yet: %w", i.What, ctx.Err())
	}
}

// Known returns what has been read if that is all there is, else nil. It does not wait.
func (i *Informer) Known() cache.Store {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.cancel == nil || !i.controller.HasSynced() {
		return nil
	}
	return i.store
}

// Stop ends the watch.
func (i *Informer) Stop() {
	i.mu.Lock()
	cancel, stopped := i.cancel, i.stopped
	i.mu.Unlock()
	if cancel != nil {
		cancel()
		<-stopped
	}
}
