package objects

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// ErrNotIssued is wrapped by the error for a certificate that has not been issued yet.
var ErrNotIssued = errors.New("credential bundle is not issued yet")

const (
	lostAfter    = 10 * time.Minute // a request that the watch does not show was deleted
	overdueAfter = 10 * time.Minute
	maxWait      = 5 * time.Minute // by chance added, so that not all pods ask at once
	askAgain     = time.Minute     // after a request that could not be made
)

// certificates are those of podCertificate projections: the kubelet makes a key for each, and a signer of the cluster answers
// the PodCertificateRequest for it. Keys are only in memory: a kubelet that starts requests new certificates.
//
// Upstream: pkg/kubelet/podcertificate/podcertificatemanager.go IssuingManager.
type certificates struct {
	Informer
	opts Options

	mu   sync.Mutex
	pods map[types.UID]map[source]*credential
	news chan struct{} // closed and replaced whenever a request changed
}

// source names a projection of a pod.
type source struct {
	volume string
	index  int
}

// credential is what there is of one certificate. Only the pod's worker uses it.
type credential struct {
	key, chain       []byte // nil until the first is issued
	refresh, expires time.Time
	again            time.Time // not to be asked for before, after that failed
	asked            *asked    // nil when nothing is under way
	refused          error     // for good
	overdue, expired bool      // told of
}

// asked is a request under way.
type asked struct {
	name string
	key  []byte
	lost time.Time
}

func newCertificates(opts Options) *certificates {
	c := &certificates{opts: opts, pods: map[types.UID]map[source]*credential{}, news: make(chan struct{})}
	c.Informer = Informer{What: "PodCertificateRequests", Kind: &certificatesv1.PodCertificateRequest{}, Watch: opts.CertificateRequests, Changed: c.tell}
	return c
}

// tell wakes the callers that wait for the certificate, and makes the request's pod sync again.
func (c *certificates) tell(object any) {
	request, ok := object.(*certificatesv1.PodCertificateRequest)
	if !ok {
		return
	}
	c.mu.Lock()
	close(c.news)
	c.news = make(chan struct{})
	_, known := c.pods[request.Spec.PodUID]
	c.mu.Unlock()
	if known {
		c.opts.OnChange(request.Spec.PodUID)
	}
}

// credential returns what there is of a certificate, which may be nothing.
func (c *certificates) credential(uid types.UID, s source) *credential {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pods[uid] == nil {
		c.pods[uid] = map[source]*credential{}
	}
	if c.pods[uid][s] == nil {
		c.pods[uid][s] = &credential{}
	}
	return c.pods[uid][s]
}

func (c *certificates) forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, uid)
}

// Certificate returns the private key and the certificates of a podCertificate projection, as PEM. When there are none it
// requests them and waits a moment for the signer. When they are due for renewal it requests new ones, and returns the present
// ones until those are issued. Calls for one pod must not overlap.
func (m *Manager) Certificate(ctx context.Context, pod *corev1.Pod, volume string, index int) (key, chain []byte, err error) {
	c := m.certificates
	if c.Watch == nil {
		return nil, nil, fmt.Errorf("ask for a certificate: %w", ErrStandalone)
	}
	store, err := c.Read(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w; it may not serve them", ErrNotIssued, err)
	}
	have := c.credential(pod.UID, source{volume, index})
	limited, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	if have.asked != nil {
		cancel() // it has been waited for; its answer makes the pod sync
	}
	for {
		c.mu.Lock()
		news := c.news
		c.mu.Unlock()
		c.takeAnswer(ctx, pod, store, have)
		if err := c.ask(ctx, pod, volume, index, have); err != nil {
			return nil, nil, err
		}
		c.complain(pod, have)
		switch {
		case have.chain != nil:
			return have.key, have.chain, nil
		case have.refused != nil:
			return nil, nil, have.refused
		}
		select {
		case <-news:
		case <-limited.Done():
			return nil, nil, fmt.Errorf("PodCertificateRequest %s/%s: %w", pod.Namespace, have.asked.name, ErrNotIssued)
		}
	}
}

// takeAnswer takes the answer to a request, if there is one.
func (c *certificates) takeAnswer(ctx context.Context, pod *corev1.Pod, store cache.Store, have *credential) {
	if have.asked == nil {
		return
	}
	object, found, _ := store.GetByKey(pod.Namespace + "/" + have.asked.name)
	if !found {
		if c.opts.Clock.Now().After(have.asked.lost) {
			have.asked = nil
		}
		return
	}
	request := object.(*certificatesv1.PodCertificateRequest)
	for _, condition := range request.Status.Conditions {
		switch condition.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued:
			have.key, have.chain, have.overdue, have.expired = have.asked.key, onlyCertificates(request.Status.CertificateChain), false, false
			have.refresh, have.expires = timesOf(c.opts.Clock.Now(), &request.Status)
			klog.FromContext(ctx).V(2).Info("Certificate issued", "request", klog.KObj(request), "pod", klog.KObj(pod), "refresh", have.refresh, "expires", have.expires)
		case certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
			have.refused = fmt.Errorf("PodCertificateRequest %s/%s is %s for good, reason=%q, message=%q",
				request.Namespace, request.Name, condition.Type, condition.Reason, condition.Message)
			c.event(pod, condition.Type, have.refused.Error())
		default:
			continue
		}
		have.asked = nil
		return
	}
}

// timesOf is when a certificate is to be renewed, and when it expires.
func timesOf(now time.Time, s *certificatesv1.PodCertificateRequestStatus) (refresh, expires time.Time) {
	if s.BeginRefreshAt == nil || s.NotAfter == nil { // no apiserver lets that pass
		return now.Add(time.Hour), now.Add(24 * time.Hour)
	}
	return s.BeginRefreshAt.Add(rand.N(maxWait)), s.NotAfter.Time
}

// ask makes a request when one is due. If it cannot be made that is an error for a pod that has no certificate yet; another keeps
// the present one.
func (c *certificates) ask(ctx context.Context, pod *corev1.Pod, volume string, index int, have *credential) error {
	now := c.opts.Clock.Now()
	due := have.asked == nil && have.refused == nil && (have.chain == nil || !now.Before(have.askAt()))
	if !due {
		return nil
	}
	made, err := c.request(ctx, pod, volume, index)
	if err != nil {
		have.again = now.Add(askAgain)
		if have.chain == nil {
			return fmt.Errorf("%w: ask for it: %w", ErrNotIssued, err)
		}
		klog.FromContext(ctx).Error(err, "Certificate could not be renewed, the old one serves on", "pod", klog.KObj(pod), "volume", volume)
	}
	have.asked = made
	return nil
}

// request makes a key and a request for a certificate of it.
func (c *certificates) request(ctx context.Context, pod *corev1.Pod, volume string, index int) (*asked, error) {
	p := certificateSource(pod, volume, index)
	if p == nil {
		return nil, fmt.Errorf("volume %s has no podCertificate as source %d", volume, index)
	}
	account, err := c.opts.ServiceAccount(ctx, pod.Namespace, pod.Spec.ServiceAccountName)
	if err != nil {
		return nil, fmt.Errorf("read service account %s: %w", pod.Spec.ServiceAccountName, err)
	}
	key, proof, err := newKey(p.KeyType)
	if err != nil {
		return nil, err
	}
	node := c.opts.Node()
	request := &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: "req-",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
		},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: p.SignerName, PodName: pod.Name, PodUID: pod.UID,
			ServiceAccountName: account.Name, ServiceAccountUID: account.UID,
			NodeName: types.NodeName(node.Name), NodeUID: node.UID,
			MaxExpirationSeconds: p.MaxExpirationSeconds, StubPKCS10Request: proof, UnverifiedUserAnnotations: p.UserAnnotations,
		},
	}
	made, err := Patiently(ctx, func() (*certificatesv1.PodCertificateRequest, error) { return c.opts.RequestCertificate(ctx, request) })
	if err != nil {
		return nil, err
	}
	return &asked{name: made.Name, key: key, lost: c.opts.Clock.Now().Add(lostAfter + rand.N(maxWait))}, nil
}

func certificateSource(pod *corev1.Pod, volume string, index int) *corev1.PodCertificateProjection {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Name == volume && v.Projected != nil && index < len(v.Projected.Sources) {
			return v.Projected.Sources[index].PodCertificate
		}
	}
	return nil
}

// complain sends an event, once, when a certificate should have been renewed, and one when it expired.
func (c *certificates) complain(pod *corev1.Pod, have *credential) {
	now := c.opts.Clock.Now()
	if have.chain == nil {
		return
	}
	if !have.overdue && now.After(have.overdueAt()) {
		have.overdue = true
		c.event(pod, "CertificateOverdueForRefresh", "PodCertificate refresh overdue")
	}
	if !have.expired && now.After(have.expires) {
		have.expired = true
		c.event(pod, "CertificateExpired", "PodCertificate expired")
	}
}

func (c *certificates) event(pod *corev1.Pod, reason, message string) {
	if c.opts.Events != nil {
		c.opts.Events.Event(pod, corev1.EventTypeWarning, reason, message)
	}
}

func (c *credential) askAt() time.Time {
	if c.again.After(c.refresh) {
		return c.again
	}
	return c.refresh
}

func (c *credential) overdueAt() time.Time { return c.refresh.Add(overdueAfter) }

// due is when the certificate is to be looked at though nothing happened; zero for never.
func (c *credential) due() (first time.Time) {
	consider := func(at time.Time, ok bool) {
		if ok {
			first = earlier(first, at)
		}
	}
	have := c.chain != nil
	consider(c.askAt(), have && c.asked == nil && c.refused == nil)
	consider(c.overdueAt(), have && !c.overdue)
	consider(c.expires, have && !c.expired)
	if c.asked != nil {
		consider(c.asked.lost, true)
	}
	return first
}

// earlier is the earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// CertificateRefresh returns when the first of the pod's certificates is to be looked at, zero for never.
func (m *Manager) CertificateRefresh(uid types.UID) (first time.Time) {
	m.certificates.mu.Lock()
	defer m.certificates.mu.Unlock()
	for _, c := range m.certificates.pods[uid] {
		first = earlier(first, c.due())
	}
	return first
}
