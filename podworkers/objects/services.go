package objects

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// services watches the cluster's services once the first pod needs them.
type services struct {
	client kubernetes.Interface

	mu       sync.Mutex
	cancel   context.CancelFunc
	factory  informers.SharedInformerFactory
	informer cache.SharedIndexInformer
	lister   corelisters.ServiceLister
}

func (s *services) list(ctx context.Context) ([]*corev1.Service, error) {
	if s.client == nil {
		return nil, nil // no apiserver, no services
	}
	informer, lister := s.start()
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	if !informer.HasSynced() && !cache.WaitForNamedCacheSyncWithContext(ctx, informer.HasSynced) {
		return nil, errors.New("services have not yet been read at least once, cannot construct envvars")
	}
	list, err := lister.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	return list, nil
}

func (s *services) start() (cache.SharedIndexInformer, corelisters.ServiceLister) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.factory == nil {
		ctx, cancel := context.WithCancel(context.Background())
		s.cancel = cancel
		s.factory = informers.NewSharedInformerFactoryWithOptions(s.client, 0*time.Second, informers.WithTransform(func(obj any) (any, error) {
			return trim(obj), nil
		}))
		svc := s.factory.Core().V1().Services()
		s.informer, s.lister = svc.Informer(), svc.Lister()
		s.factory.StartWithContext(ctx)
	}
	return s.informer, s.lister
}

func (s *services) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.factory != nil {
		s.cancel()
		s.factory.Shutdown()
	}
}
