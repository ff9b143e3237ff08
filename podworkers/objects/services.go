package objects

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
)

// services watches the cluster's services once the first pod needs them.
type services struct {
	watch Watch
	Informer
}

func newServices(watch Watch) *services {
	return &services{watch: watch, Informer: Informer{
		What: "services", Kind: &corev1.Service{},
		Watch: func() cache.ListerWatcher { return watch("services", "", fields.Everything()) },
	}}
}

func (s *services) list(ctx context.Context, wait bool) ([]*corev1.Service, error) {
	if s.watch == nil {
		return nil, nil // no apiserver, no services
	}
	s.start()
	if wait {
		if _, err := s.Read(ctx); err != nil {
			return nil, errors.New("services have not yet been read at least once, cannot construct envvars")
		}
	}
	var list []*corev1.Service
	for _, service := range s.store.List() {
		list = append(list, service.(*corev1.Service))
	}
	return list, nil
}
