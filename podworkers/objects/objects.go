// Package objects holds the Secrets, ConfigMaps, service account tokens and certificates that the node's pods refer to: each is
// watched once, however many pods want it, for as long as one does.
package objects

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	authv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
)

// ErrStandalone is wrapped by the error for an object while there is no apiserver.
var ErrStandalone = errors.New("there is no apiserver to ask")

// Watch lists and watches the objects of a core resource that a field selector chooses; no namespace means all.
type Watch func(resource, namespace string, selector fields.Selector) cache.ListerWatcher

// Options are the ways to the apiserver, nil without one, and whom to tell of changes.
type Options struct {
	Watch       Watch
	CreateToken func(ctx context.Context, namespace, serviceAccount string, request *authv1.TokenRequest) (*authv1.TokenRequest, error)
	// TrustBundles lists and watches the cluster's ClusterTrustBundles.
	TrustBundles func() cache.ListerWatcher
	// CertificateRequests lists and watches the node's PodCertificateRequests, RequestCertificate makes one. Its pod's
	// ServiceAccount and the Node stand in it.
	CertificateRequests func() cache.ListerWatcher
	RequestCertificate  func(ctx context.Context, request *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error)
	ServiceAccount      func(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Node                func() *corev1.Node
	// Events tells of certificates that are refused or overdue; may be nil.
	Events record.EventRecorder
	// OnChange is told of every pod that refers to an object that changed. It must not block for long.
	OnChange func(types.UID)
	Clock    clock.PassiveClock
}

// Manager watches objects.
//
// Upstream: pkg/kubelet/util/manager/watch_based_manager.go objectCache.
type Manager struct {
	opts         Options
	tokens       *tokens
	services     *services
	bundles      *bundles
	certificates *certificates

	mu      sync.Mutex
	objects map[key]*object
	pods    map[types.UID][]key
}

// key names an object.
type key struct{ kind, namespace, name string }

func (k key) String() string { return fmt.Sprintf("%s %s/%s", k.kind, k.namespace, k.name) }

const (
	secret    = "secret"
	configMap = "configmap"
)

// New returns a Manager; Run ends its watches with its context.
func New(opts Options) *Manager {
	if opts.Clock == nil {
		opts.Clock = clock.RealClock{}
	}
	if opts.OnChange == nil {
		opts.OnChange = func(types.UID) {}
	}
	return &Manager{
		opts: opts, tokens: newTokens(opts), services: newServices(opts.Watch),
		bundles: newBundles(opts.TrustBundles, opts.OnChange), certificates: newCertificates(opts),
		objects: map[key]*object{}, pods: map[types.UID][]key{},
	}
}

// Run waits for ctx to end and then stops all watches.
func (m *Manager) Run(ctx context.Context) {
	<-ctx.Done()
	m.mu.Lock()
	watches := slices.Collect(maps.Values(m.objects))
	clear(m.objects)
	clear(m.pods)
	m.mu.Unlock()
	for _, o := range watches {
		o.stop()
	}
	m.services.Stop()
	m.bundles.Stop()
	m.certificates.Stop()
}

// Register begins to watch what the pod refers to, and stops what only an earlier version of it did.
func (m *Manager) Register(pod *corev1.Pod) {
	if m.opts.Watch == nil {
		return
	}
	m.bundles.register(pod)
	wanted := references(pod)
	m.mu.Lock()
	before := m.pods[pod.UID]
	m.pods[pod.UID] = wanted
	for _, k := range wanted {
		o := m.objects[k]
		if o == nil {
			o = newObject(m.opts.Watch, k, func() { m.changed(k) })
			m.objects[k] = o
		}
		o.users++
	}
	unused := m.release(before)
	m.mu.Unlock()
	for _, o := range unused {
		o.stop()
	}
}

// Unregister stops watching what only this pod referred to, and forgets its tokens.
func (m *Manager) Unregister(uid types.UID) {
	m.mu.Lock()
	unused := m.release(m.pods[uid])
	delete(m.pods, uid)
	m.mu.Unlock()
	for _, o := range unused {
		o.stop()
	}
	m.tokens.forget(uid)
	m.bundles.forget(uid)
	m.certificates.forget(uid)
}

// release takes one user off each object and returns those without any. Callers hold mu.
func (m *Manager) release(keys []key) []*object {
	var unused []*object
	for _, k := range keys {
		o := m.objects[k]
		if o == nil {
			continue
		}
		if o.users--; o.users == 0 {
			delete(m.objects, k)
			unused = append(unused, o)
		}
	}
	return unused
}

// changed tells of every pod that refers to an object.
func (m *Manager) changed(k key) {
	m.mu.Lock()
	var users []types.UID
	for uid, keys := range m.pods {
		if slices.Contains(keys, k) {
			users = append(users, uid)
		}
	}
	m.mu.Unlock()
	for _, uid := range users {
		m.opts.OnChange(uid)
	}
}

// Secret returns a Secret that a registered pod refers to. It waits, as long as ctx lasts, for the first reading.
func (m *Manager) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	value, err := m.get(ctx, key{secret, namespace, name})
	if err != nil {
		return nil, err
	}
	return value.(*corev1.Secret), nil
}

// ConfigMap returns a ConfigMap that a registered pod refers to. It waits, as long as ctx lasts, for the first reading.
func (m *Manager) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	value, err := m.get(ctx, key{configMap, namespace, name})
	if err != nil {
		return nil, err
	}
	return value.(*corev1.ConfigMap), nil
}

func (m *Manager) get(ctx context.Context, k key) (any, error) {
	if m.opts.Watch == nil {
		return nil, fmt.Errorf("read %s: %w", k, ErrStandalone)
	}
	m.mu.Lock()
	o := m.objects[k]
	m.mu.Unlock()
	if o == nil {
		return nil, fmt.Errorf("read %s: no pod on this node refers to it", k)
	}
	return o.get(ctx)
}

// Services returns the cluster's services, for the variables that tell of them. The first call begins to watch them. With wait it
// returns when all have been read, else at once with those that are known.
func (m *Manager) Services(ctx context.Context, wait bool) ([]*corev1.Service, error) {
	return m.services.list(ctx, wait)
}

// Token returns a token of the pod's service account, from the cache while it is fresh.
func (m *Manager) Token(ctx context.Context, pod *corev1.Pod, request *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	return m.tokens.get(ctx, pod, request)
}
