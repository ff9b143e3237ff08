package objects

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/watchlist"
	"k8s.io/utils/ptr"
)

// object is one watched Secret or ConfigMap.
type object struct {
	key     key
	users   int // guarded by the manager's mutex
	cancel  context.CancelFunc
	stopped chan struct{}
	changed func()

	mu     sync.Mutex
	synced bool
	value  any
	news   chan struct{} // closed and replaced whenever something is learnt
	denied error         // why the last list or watch was refused
}

func newObject(watch Watch, k key, changed func()) *object {
	ctx, cancel := context.WithCancel(context.Background())
	o := &object{key: k, cancel: cancel, changed: changed, stopped: make(chan struct{}), news: make(chan struct{})}
	go func() {
		defer close(o.stopped)
		o.run(ctx, watch)
	}()
	return o
}

func (o *object) stop() {
	o.cancel()
	<-o.stopped
}

// run lists and watches the one object. Right after a pod was bound the node authorizer may not know yet that this
// node may read what the pod refers to, so a refusal is asked again soon.
func (o *object) run(ctx context.Context, watch Watch) {
	var kind runtime.Object = &corev1.Secret{}
	resource := "secrets"
	if o.key.kind == configMap {
		kind, resource = &corev1.ConfigMap{}, "configmaps"
	}
	from := watch(resource, o.key.namespace, fields.OneTermEqualSelector("metadata.name", o.key.name))
	reflector := cache.NewReflectorWithOptions(patient{o, cache.ToListerWatcherWithContext(from)}, kind, store{o}, cache.ReflectorOptions{Name: o.key.String()})
	reflector.RunWithContext(ctx)
}

// patient is a ListerWatcher that repeats a refused request for a while, and tells the object of each answer.
type patient struct {
	o *object
	cache.ListerWatcherWithContext
}

func (p patient) List(opts metav1.ListOptions) (runtime.Object, error) {
	return p.ListWithContext(context.Background(), opts)
}

func (p patient) Watch(opts metav1.ListOptions) (watch.Interface, error) {
	return p.WatchWithContext(context.Background(), opts)
}

func (p patient) ListWithContext(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
	return Patiently(ctx, func() (runtime.Object, error) {
		list, err := p.ListerWatcherWithContext.ListWithContext(ctx, opts)
		p.o.deny(err)
		return list, err
	})
}

func (p patient) WatchWithContext(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	return Patiently(ctx, func() (watch.Interface, error) {
		w, err := p.ListerWatcherWithContext.WatchWithContext(ctx, opts)
		p.o.deny(err)
		return w, err
	})
}

// IsWatchListSemanticsUnSupported answers for the wrapped client.
func (p patient) IsWatchListSemanticsUnSupported() bool {
	return watchlist.DoesClientNotSupportWatchListSemantics(p.ListerWatcherWithContext)
}

// Patiently asks again for a second while the apiserver may not have learnt of the pod.
func Patiently[T any](ctx context.Context, ask func() (T, error)) (answer T, err error) {
	backoff := wait.Backoff{Duration: 10 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 7}
	for {
		answer, err = ask()
		if !podUnknown(err) || backoff.Steps == 0 {
			return answer, err
		}
		timer := time.NewTimer(backoff.Step())
		select {
		case <-ctx.Done():
			timer.Stop()
			return answer, ctx.Err()
		case <-timer.C:
		}
	}
}

// podUnknown tells that access was refused, as the node authorizer does until it knows that a pod of the node needs the object,
// or that the pod itself is not there, as NodeRestriction says until it knows the pod.
func podUnknown(err error) bool {
	if apierrors.IsForbidden(err) {
		return true
	}
	answer, is := errors.AsType[*apierrors.StatusError](err)
	return is && apierrors.IsNotFound(err) && answer.ErrStatus.Details != nil && strings.HasPrefix(answer.ErrStatus.Details.Kind, "pod")
}

// deny remembers why the object cannot be read, which callers that wait for it get.
func (o *object) deny(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.denied = err; err != nil {
		o.tell()
	}
}

// tell wakes the callers that wait for the object. Callers hold mu.
func (o *object) tell() {
	close(o.news)
	o.news = make(chan struct{})
}

// immutable tells whether an object is marked immutable, so that it cannot change until it is deleted.
func immutable(value any) bool {
	switch v := value.(type) {
	case *corev1.Secret:
		return ptr.Deref(v.Immutable, false)
	case *corev1.ConfigMap:
		return ptr.Deref(v.Immutable, false)
	}
	return false
}

// set takes what the apiserver has, nil for nothing. An immutable object is not watched any longer.
func (o *object) set(value any) {
	o.mu.Lock()
	first := !o.synced
	o.synced, o.value = true, value
	o.tell()
	o.mu.Unlock()
	if immutable(value) {
		o.cancel()
	}
	if !first { // for the first one its readers wait
		o.changed()
	}
}

// readLimit is how long a reader waits for the first answer.
const readLimit = 10 * time.Second

// get returns the object. It waits for the first answer; the answer may be that the object does not exist.
func (o *object) get(ctx context.Context) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	for {
		o.mu.Lock()
		synced, value, news, denied := o.synced, o.value, o.news, o.denied
		o.mu.Unlock()
		if synced && value != nil {
			return value, nil
		}
		if synced {
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: o.key.kind}, o.key.name)
		}
		select {
		case <-news:
		case <-ctx.Done():
			if denied != nil {
				return nil, fmt.Errorf("read %s: %w", o.key, denied)
			}
			return nil, fmt.Errorf("read %s: %w", o.key, ctx.Err())
		}
	}
}

// store is where the reflector puts the one object.
type store struct{ o *object }

func (s store) Add(obj any) error    { s.o.set(trim(obj)); return nil }
func (s store) Update(obj any) error { s.o.set(trim(obj)); return nil }
func (s store) Delete(any) error     { s.o.set(nil); return nil }
func (s store) Resync() error        { return nil }

func (s store) Replace(list []any, _ string) error {
	if len(list) == 0 {
		s.o.set(nil)
		return nil
	}
	s.o.set(trim(list[0]))
	return nil
}

// trim drops the managed fields, which the kubelet does not read.
func trim(obj any) any {
	if meta, ok := obj.(metav1.Object); ok {
		meta.SetManagedFields(nil)
	}
	return obj
}
