// Package runtimeclass finds the runtime handler that a pod's RuntimeClass names.
package runtimeclass

import (
	"context"
	"errors"
	"fmt"
	"time"

	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	nodelisters "k8s.io/client-go/listers/node/v1"
)

// ErrNotFound is wrapped when there is no class of that name.
var ErrNotFound = errors.New("RuntimeClass not found")

// syncWait is how long a lookup waits for the first list of classes, which comes within milliseconds of the start
// unless the apiserver is away.
const syncWait = time.Second

// Lookup knows the RuntimeClasses of the cluster.
//
// Upstream: pkg/kubelet/runtimeclass/runtimeclass_manager.go Manager
type Lookup struct {
	factory informers.SharedInformerFactory // nil without an apiserver
	lister  nodelisters.RuntimeClassLister
	synced  <-chan struct{}
}

// New returns a lookup; Run fills it. Without a client, when there is no apiserver, there are no classes.
func New(client kubernetes.Interface) *Lookup {
	if client == nil {
		return &Lookup{}
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	classes := factory.Node().V1().RuntimeClasses()
	return &Lookup{factory: factory, lister: classes.Lister(), synced: classes.Informer().HasSyncedChecker().Done()}
}

// Run follows the classes until ctx ends.
func (l *Lookup) Run(ctx context.Context) {
	if l.factory == nil {
		<-ctx.Done()
		return
	}
	l.factory.StartWithContext(ctx)
	<-ctx.Done()
	l.factory.Shutdown()
}

// LookupRuntimeHandler returns the handler of the class, "" for no class: the runtime's default. A class that does not
// exist, or is not known yet, is an error, and the pod waits.
//
// Upstream: pkg/kubelet/runtimeclass/runtimeclass_manager.go LookupRuntimeHandler
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
	if l.lister == nil {
		return nil, fmt.Errorf("failed to get RuntimeClass %q: %w: there is no apiserver to have it", *name, ErrNotFound)
	}
	if !l.waitForSync() {
		return nil, fmt.Errorf("failed to get RuntimeClass %q: the RuntimeClasses have not been listed yet", *name)
	}
	class, err := l.lister.Get(*name)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("failed to get RuntimeClass %q: %w", *name, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to get RuntimeClass %q: %w", *name, err)
	}
	return class, nil
}

func (l *Lookup) waitForSync() bool {
	timer := time.NewTimer(syncWait)
	defer timer.Stop()
	select {
	case <-l.synced:
		return true
	case <-timer.C:
		return false
	}
}
