// Package runtimeclass finds the runtime handler that a pod's RuntimeClass names.
package runtimeclass

import (
	"context"
	"errors"
	"fmt"
	"time"

	nodev1 "k8s.io/api/node/v1"
	"k8s.io/client-go/tools/cache"
)

// ErrNotFound is wrapped when there is no class of that name.
var ErrNotFound = errors.New("RuntimeClass not found")

// syncWait is how long a lookup waits for the first list of classes, which comes within milliseconds of the start
// unless the apiserver is away.
const syncWait = time.Second

// Lookup knows the RuntimeClasses of the cluster.
type Lookup struct {
	classes    cache.Store
	controller cache.Controller // nil without an apiserver
}

// New returns a lookup; Run fills it. Without an apiserver, when classes is nil, there are none.
func New(classes cache.ListerWatcher) *Lookup {
	if classes == nil {
		return &Lookup{}
	}
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: classes, ObjectType: &nodev1.RuntimeClass{}, Handler: cache.ResourceEventHandlerFuncs{},
	})
	return &Lookup{classes: store, controller: controller}
}

// Run follows the classes until ctx ends.
func (l *Lookup) Run(ctx context.Context) {
	if l.controller == nil {
		<-ctx.Done()
		return
	}
	l.controller.RunWithContext(ctx)
}

// LookupRuntimeHandler returns the handler of the class, "" for no class: the runtime's default. A class that does not
// exist, or is not known yet, is an error, and the pod waits.
func (l *Lookup) LookupRuntimeHandler(name *string) (string, error) {
	class, err := l.Class(name)
	if class == nil || err != nil {
		return "", err
	}
	return class.Handler, nil
}

// Class returns the class itself, nil for no name.
func (l *Lookup) Class(name *string) (*nodev1.RuntimeClass, error) {
	if name == nil || *name == "" {
		return nil, nil
	}
	if l.controller == nil {
		return nil, fmt.Errorf("failed to get RuntimeClass %q: %w: there is no apiserver to have it", *name, ErrNotFound)
	}
	if !l.waitForSync() {
		return nil, fmt.Errorf("failed to get RuntimeClass %q: the RuntimeClasses have not been listed yet", *name)
	}
	class, found, err := l.classes.GetByKey(*name)
	if err != nil {
		return nil, fmt.Errorf("failed to get RuntimeClass %q: %w", *name, err)
	}
	if !found {
		return nil, fmt.Errorf("failed to get RuntimeClass %q: %w", *name, ErrNotFound)
	}
	return class.(*nodev1.RuntimeClass), nil
}

func (l *Lookup) waitForSync() bool {
	timer := time.NewTimer(syncWait)
	defer timer.Stop()
	select {
	case <-l.controller.HasSyncedChecker().Done():
		return true
	case <-timer.C:
		return false
	}
}
