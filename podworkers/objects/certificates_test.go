package objects

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"

	"minikubelet/podworkers/objects/objectstest"
)

// certificateTest is a manager whose requests a test answers.
type certificateTest struct {
	*Manager
	client  *fake.Clientset
	clock   *clocktesting.FakePassiveClock
	events  *record.FakeRecorder
	changed chan types.UID
	fail    error
	made    int
}

func newCertificateTest(t *testing.T) *certificateTest {
	c := &certificateTest{
		client: fake.NewClientset(), clock: clocktesting.NewFakePassiveClock(time.Now()), events: record.NewFakeRecorder(100), changed: make(chan types.UID, 100),
	}
	requests := c.client.CertificatesV1().PodCertificateRequests
	c.Manager = New(Options{
		Watch: objectstest.Watch(c.client), Clock: c.clock, Events: c.events, OnChange: func(uid types.UID) { c.changed <- uid },
		CertificateRequests: func() cache.ListerWatcher {
			return objectstest.ListWatch(c.client, requests(""), fields.Everything())
		},
		RequestCertificate: func(ctx context.Context, r *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
			if c.fail != nil {
				return nil, c.fail
			}
			c.made++
			r.Name = fmt.Sprintf("req-%d", c.made)
			return requests(r.Namespace).Create(ctx, r, metav1.CreateOptions{})
		},
		ServiceAccount: func(_ context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
			return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "account"}}, nil
		},
		Node: func() *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "node"}} },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

// answer gives a request its last condition, and an issued one its certificates, named after it.
func (c *certificateTest) answer(t *testing.T, name, condition string) {
	t.Helper()
	requests := c.client.CertificatesV1().PodCertificateRequests("ns")
	r, err := requests.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.Status = certificatesv1.PodCertificateRequestStatus{
		Conditions: []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue, Reason: "Why", Message: "because"}},
	}
	if condition == "Issued" {
		now := c.clock.Now()
		r.Status.CertificateChain = "noise\n" + certificate(name)
		r.Status.BeginRefreshAt, r.Status.NotAfter = new(metav1.NewTime(now.Add(time.Hour))), new(metav1.NewTime(now.Add(2*time.Hour)))
	}
	if _, err := requests.UpdateStatus(t.Context(), r, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	<-c.changed
}

// certified is a pod with one podCertificate.
func certified(uid string) *corev1.Pod {
	pod := user(uid, "c")
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{PodCertificate: &corev1.PodCertificateProjection{
			SignerName: "a/signer", KeyType: "ECDSAP256", MaxExpirationSeconds: new(int32(7200)), UserAnnotations: map[string]string{"a/b": "c"},
		}}},
	}}})
	return pod
}

// first gets a certificate that a signer issues meanwhile, and returns its key.
func (c *certificateTest) first(t *testing.T, pod *corev1.Pod) []byte {
	t.Helper()
	type result struct {
		key, chain []byte
		err        error
	}
	results := make(chan result)
	go func() {
		key, chain, err := c.Certificate(t.Context(), pod, "p", 0)
		results <- result{key, chain, err}
	}()
	<-c.changed // by the request's being made
	c.answer(t, "req-1", "Issued")
	r := <-results
	if r.err != nil || string(r.chain) != certificate("req-1") {
		t.Fatalf("%q, %v", r.chain, r.err)
	}
	return r.key
}

// want gets the certificate that there is and checks whose it is.
func (c *certificateTest) want(t *testing.T, pod *corev1.Pod, chain string) (key string) {
	t.Helper()
	k, got, err := c.Certificate(t.Context(), pod, "p", 0)
	if err != nil || string(got) != certificate(chain) {
		t.Fatalf("%q, %v, want that of %s", got, err, chain)
	}
	return string(k)
}

// TestCertificateRequest: what is asked for is the pod's, the key proves it, and the key stays here.
func TestCertificateRequest(t *testing.T) {
	c := newCertificateTest(t)
	pod := certified("1")
	key := c.first(t, pod)
	r, err := c.client.CertificatesV1().PodCertificateRequests("ns").Get(t.Context(), "req-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := r.Spec
	if s.SignerName != "a/signer" || s.PodName != "1" || s.PodUID != "1" || s.ServiceAccountName != "sa" || s.ServiceAccountUID != "account" ||
		s.NodeName != "n" || s.NodeUID != "node" || *s.MaxExpirationSeconds != 7200 || s.UnverifiedUserAnnotations["a/b"] != "c" || r.OwnerReferences[0].UID != "1" {
		t.Errorf("%+v", r)
	}
	request, err := x509.ParseCertificateRequest(s.StubPKCS10Request)
	if err != nil {
		t.Fatal(err)
	}
	if err := request.CheckSignature(); err != nil {
		t.Error(err)
	}
	block, _ := pem.Decode(key)
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !private.(*ecdsa.PrivateKey).PublicKey.Equal(request.PublicKey) {
		t.Error("the request is for another key")
	}
}

// TestCertificateRenewal: the old certificate serves while a new one is asked for, and when that fails.
func TestCertificateRenewal(t *testing.T) {
	c := newCertificateTest(t)
	pod := certified("1")
	first := string(c.first(t, pod))
	due := c.CertificateRefresh("1")
	if after := due.Sub(c.clock.Now()); after < time.Hour || after > time.Hour+maxWait {
		t.Errorf("to be renewed after %v", after)
	}
	c.want(t, pod, "req-1")
	if c.made != 1 {
		t.Errorf("asked %d times before it was due", c.made)
	}

	c.clock.SetTime(due.Add(time.Second))
	c.fail = errors.New("away")
	c.want(t, pod, "req-1")
	if next := c.CertificateRefresh("1"); !next.After(c.clock.Now()) {
		t.Errorf("what failed is due again at once: %v", next)
	}
	c.clock.SetTime(due.Add(overdueAfter + time.Second))
	c.want(t, pod, "req-1")
	c.want(t, pod, "req-1")
	c.clock.SetTime(due.Add(2 * time.Hour))
	c.want(t, pod, "req-1")
	for _, reason := range []string{"CertificateOverdueForRefresh", "CertificateExpired"} {
		if got := <-c.events.Events; !strings.Contains(got, reason) {
			t.Errorf("event %q, want %s", got, reason)
		}
	}
	if len(c.events.Events) > 0 {
		t.Errorf("another event: %q", <-c.events.Events)
	}

	c.fail = nil
	c.clock.SetTime(c.CertificateRefresh("1").Add(time.Second))
	c.want(t, pod, "req-1")
	<-c.changed
	if c.answer(t, "req-2", "Issued"); c.want(t, pod, "req-2") == first {
		t.Error("the new certificate has the old key")
	}
}

func TestCertificateRefused(t *testing.T) {
	for _, condition := range []string{"Denied", "Failed"} {
		c := newCertificateTest(t)
		pod := certified("1")
		errs := make(chan error)
		go func() { _, _, err := c.Certificate(t.Context(), pod, "p", 0); errs <- err }()
		<-c.changed
		c.answer(t, "req-1", condition)
		if err := <-errs; err == nil || !strings.Contains(err.Error(), "because") {
			t.Error(err)
		}
		if _, _, err := c.Certificate(t.Context(), pod, "p", 0); err == nil || c.made != 1 {
			t.Errorf("asked %d times, %v", c.made, err)
		}
		if got := <-c.events.Events; !strings.Contains(got, condition) {
			t.Errorf("event %q", got)
		}
		c.Unregister("1")
		if !c.CertificateRefresh("1").IsZero() {
			t.Error("a pod that went has something to be renewed")
		}
	}
}

// TestCertificateLost: a request that was deleted is made again; one that gets no answer is waited for once.
func TestCertificateLost(t *testing.T) {
	c := newCertificateTest(t)
	pod := certified("1")
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() { _, _, err := c.Certificate(ctx, pod, "p", 0); errs <- err }()
	<-c.changed
	cancel()
	if err := <-errs; !errors.Is(err, ErrNotIssued) {
		t.Error(err)
	}
	if _, _, err := c.Certificate(t.Context(), pod, "p", 0); !errors.Is(err, ErrNotIssued) || c.made != 1 {
		t.Errorf("%v, asked %d times", err, c.made)
	}
	if err := c.client.CertificatesV1().PodCertificateRequests("ns").Delete(t.Context(), "req-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	<-c.changed
	c.clock.SetTime(c.CertificateRefresh("1").Add(time.Second))
	ctx, cancel = context.WithCancel(t.Context())
	go func() { _, _, err := c.Certificate(ctx, pod, "p", 0); errs <- err }()
	<-c.changed
	cancel()
	if err := <-errs; !errors.Is(err, ErrNotIssued) || c.made != 2 {
		t.Errorf("%v, asked %d times", err, c.made)
	}
}

func TestCertificateErrors(t *testing.T) {
	if _, _, err := New(Options{}).Certificate(t.Context(), certified("1"), "p", 0); !errors.Is(err, ErrStandalone) {
		t.Error(err)
	}
	c := newCertificateTest(t)
	pod := certified("1")
	if _, _, err := c.Certificate(t.Context(), pod, "v", 0); err == nil {
		t.Error("a volume without certificates has one")
	}
	pod.Spec.Volumes[1].Projected.Sources[0].PodCertificate.KeyType = "DSA"
	if _, _, err := c.Certificate(t.Context(), pod, "p", 0); err == nil || !strings.Contains(err.Error(), `unknown key type "DSA"`) {
		t.Error(err)
	}
}

func TestNewKey(t *testing.T) {
	for _, kind := range []string{"RSA3072", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"} {
		key, proof, err := newKey(kind)
		if err != nil {
			t.Fatal(err)
		}
		request, err := x509.ParseCertificateRequest(proof)
		if err != nil || request.CheckSignature() != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if block, rest := pem.Decode(key); block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
			t.Errorf("%s: %q", kind, key)
		}
	}
}
