package objects

import (
	"context"
	"errors"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
)

// services watches the cluster's services once the first pod needs them.
type services struct {
	watch Watch

	mu         sync.Mutex
	cancel     context.CancelFunc // nil until the first pod
	stopped    chan struct{}
	store      cache.Store
	controller cache.Controller
}

func (s *services) list(ctx context.Context) ([]*corev1.Service, error) {
	if s.watch == nil {
		return nil, nil // no apiserver, no services
	}
	s.start()
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	select {
	case <-s.controller.HasSyncedChecker().Done():
	case <-ctx.Done():
		return nil, errors.New("services have not yet been read at least once, cannot construct envvars")
	}
	var list []*corev1.Service
	for _, service := range s.store.List() {
		list = append(list, service.(*corev1.Service))
	}
	return list, nil
}

func (s *services) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		return
	}
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	s.stopped = make(chan struct{})
	s.store, s.controller = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: s.watch("services", "", fields.Everything()), ObjectType: &corev1.Service{}, Handler: cache.ResourceEventHandlerFuncs{},
		Transform: func(obj any) (any, error) { return trim(obj), nil },
	})
	go func() {
		defer close(s.stopped)
		s.controller.RunWithContext(ctx)
	}()
}

func (s *services) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
		<-s.stopped
	}
}
