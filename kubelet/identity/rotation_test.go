package identity

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
)

type csr = certificatesv1.CertificateSigningRequest

// signers is an apiserver whose administrator does with each request what the test says.
type signers struct {
	t *testing.T
	Requests
	client  *fake.Clientset
	a       *authority
	seen    atomic.Int32
	watched chan struct{} // a value for each watch: the fake forgets what was before
}

func newSigners(t *testing.T, act func(s *signers, r *csr)) *signers {
	t.Helper()
	s := &signers{t: t, client: fake.NewClientset(), a: newAuthority(t), watched: make(chan struct{}, 10)}
	s.Requests = s.client.CertificatesV1().CertificateSigningRequests()
	w, err := s.Requests.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.ResultChan() {
			if r, ok := e.Object.(*csr); ok && e.Type == "ADDED" {
				s.seen.Add(1)
				select {
				case <-s.watched:
				case <-t.Context().Done():
					return
				}
				act(s, r.DeepCopy())
			}
		}
	}()
	t.Cleanup(func() { w.Stop(); <-done })
	return s
}

// Create makes up names, as an apiserver does and the fake does not.
func (s *signers) Create(ctx context.Context, r *csr, o metav1.CreateOptions) (*csr, error) {
	if r.Name == "" {
		r.Name = r.GenerateName + rand.Text()
	}
	return s.Requests.Create(ctx, r, o)
}

// Watch lets the administrator act.
func (s *signers) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	w, err := s.Requests.Watch(ctx, o)
	s.watched <- struct{}{}
	return w, err
}

func condition(r *csr, kind certificatesv1.RequestConditionType) {
	r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: kind, Status: corev1.ConditionTrue, Reason: "R", Message: "M"}}
}

func (s *signers) write(r *csr) {
	if _, err := s.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(s.t.Context(), r, metav1.UpdateOptions{}); err != nil {
		s.t.Error(err)
	}
}

// sign approves a request, and then signs it.
func sign(s *signers, r *csr) {
	condition(r, certificatesv1.CertificateApproved)
	s.write(r)
	r.Status.Certificate = s.a.sign(r.Spec.Request, time.Hour)
	s.write(r)
}

func aRotation(t *testing.T, s *signers, template func() *x509.CertificateRequest) *rotation {
	t.Helper()
	return &rotation{
		store: open(t, t.TempDir()), signer: certificatesv1.KubeletServingSignerName, use: certificatesv1.UsageServerAuth, dynamic: true,
		template: template, requests: func() (Requests, error) { return s, nil },
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "f"}),
	}
}

// TestRotation: a certificate is asked for when there is none, when it is due, and when other names are wanted.
func TestRotation(t *testing.T) {
	noLeaks(t)
	s := newSigners(t, sign)
	var names atomic.Value
	names.Store([]string(nil))
	r := aRotation(t, s, func() *x509.CertificateRequest {
		if n := names.Load().([]string); n != nil {
			return &x509.CertificateRequest{Subject: subject("n"), DNSNames: n}
		}
		return nil
	})
	changed := make(chan struct{}, 10)
	r.store.onUpdate = func() { changed <- struct{}{} }
	ages := 0
	r.ages = prometheus.ObserverFunc(func(float64) { ages++ })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.run(ctx) }()
	next := func() *x509.Certificate {
		t.Helper()
		select {
		case <-changed:
			return r.store.valid().Leaf
		case <-time.After(30 * time.Second):
			t.Fatal("there is no new certificate")
			return nil
		}
	}
	for _, want := range [][]string{{"a"}, {"a", "b"}} {
		names.Store(want)
		if c := next(); !slices.Equal(c.DNSNames, want) || c.Subject.CommonName != "system:node:n" {
			t.Errorf("the certificate is of %v, %v", c.Subject, c.DNSNames)
		}
	}
	cancel()
	<-done
	if ages != 1 {
		t.Errorf("%d certificates were replaced, want 1", ages)
	}
	if n := s.seen.Load(); n != 2 || testutil.ToFloat64(r.failures) != 0 {
		t.Errorf("%d requests, %v failures", n, testutil.ToFloat64(r.failures))
	}
	if p := r.pause(); p <= 0 || p > time.Hour {
		t.Errorf("the next is due in %v", p)
	}
	list, err := s.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list.Items {
		if r.GenerateName != "csr-" || r.Spec.SignerName != certificatesv1.KubeletServingSignerName || !slices.Equal(r.Spec.Usages, []certificatesv1.KeyUsage{"digital signature", "server auth"}) {
			t.Errorf("request %+v", r.Spec)
		}
	}
}

// TestNames: what a signer leaves out is asked for once.
func TestNames(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue("n", time.Now().Add(time.Hour-time.Minute)) // of localhost
	want := &x509.CertificateRequest{Subject: subject("n"), DNSNames: []string{"localhost"}}
	r := aRotation(t, nil, func() *x509.CertificateRequest { return want })
	c, err := r.store.update(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	asks := func() bool { return r.pause() <= 0 }
	if asks() {
		t.Error("a new certificate is replaced")
	}
	for name, template := range map[string]*x509.CertificateRequest{
		"IP":   {Subject: subject("n"), IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}},
		"name": {Subject: subject("n"), DNSNames: []string{"localhost", "b"}},
		"node": {Subject: subject("m")},
	} {
		if want, r.last = template, nil; !asks() {
			t.Errorf("another %s is not asked for", name)
		}
		if r.last = template; asks() {
			t.Errorf("another %s is asked for again and again", name)
		}
	}
	if want = nil; asks() {
		t.Error("nothing is asked for")
	}
	r.force.Store(true)
	if !asks() {
		t.Error("it is not replaced at once")
	}
	for range 1000 {
		part := rotationDeadline(c.Leaf).Sub(c.Leaf.NotBefore).Seconds() / 3600
		if part < 0.7 || part > 0.9 {
			t.Fatalf("the deadline is after %v of its life", part)
		}
	}
}

func TestAwait(t *testing.T) {
	noLeaks(t)
	for name, test := range map[string]struct {
		act  func(*signers, *csr)
		want string
	}{
		"signed": {sign, ""},
		"denied": {func(s *signers, r *csr) { condition(r, certificatesv1.CertificateDenied); s.write(r) }, "Denied: R: M"},
		"failed": {func(s *signers, r *csr) { condition(r, certificatesv1.CertificateFailed); s.write(r) }, "Failed: R: M"},
		"deleted": {func(s *signers, r *csr) {
			if err := s.client.CertificatesV1().CertificateSigningRequests().Delete(s.t.Context(), r.Name, metav1.DeleteOptions{}); err != nil {
				s.t.Error(err)
			}
		}, "deleted"},
		"another":  {func(s *signers, r *csr) { r.UID = "x"; sign(s, r) }, "another one"},
		"no names": {func(*signers, *csr) {}, "changed meanwhile"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSigners(t, test.act)
			made, err := request(t.Context(), s, wanted{template: &x509.CertificateRequest{Subject: subject("n")}, key: newKey(t), signer: "s"})
			if err != nil {
				t.Fatal(err)
			}
			cert, err := await(t.Context(), s, made, func() bool { return name == "no names" })
			if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) || err == nil && len(cert) == 0 {
				t.Errorf("await = %q, %v; want %q", cert, err, test.want)
			}
		})
	}
	s := newSigners(t, func(*signers, *csr) {})
	made, err := request(t.Context(), s, wanted{template: &x509.CertificateRequest{}, key: newKey(t), signer: "s"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := await(ctx, s, made, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody signs: %v", err)
	}
}

// TestRequestAgain: a request of the same name is the same one, if it is for the same key.
func TestRequestAgain(t *testing.T) {
	s := newSigners(t, func(*signers, *csr) {})
	w := wanted{name: "r", signer: "s", use: certificatesv1.UsageClientAuth, template: &x509.CertificateRequest{Subject: subject("n")}, key: newKey(t)}
	for range 2 {
		if r, err := request(t.Context(), s, w); err != nil || r.Name != "r" {
			t.Errorf("request = %v, %v", r, err)
		}
	}
	for name, change := range map[string]func(*wanted){
		"another key":    func(w *wanted) { w.key = newKey(t) },
		"another node":   func(w *wanted) { w.template = &x509.CertificateRequest{Subject: subject("m")} },
		"another signer": func(w *wanted) { w.signer = "x" },
	} {
		other := w
		change(&other)
		if _, err := request(t.Context(), s, other); err == nil {
			t.Errorf("%s: the request is used again", name)
		}
	}
	old := &csr{Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: "s"}}
	list, err := s.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	old.Spec.Request = list.Items[0].Spec.Request
	old.Status.Certificate = s.a.sign(old.Spec.Request, time.Hour)
	if err := compatible(old, old, time.Now()); err != nil {
		t.Error(err)
	}
	if err := compatible(old, old, time.Now().Add(2*time.Hour)); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired certificate is taken: %v", err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	w.name, w.key = "rsa", key
	if r, err := request(t.Context(), s, w); err != nil || !slices.Equal(r.Spec.Usages, []certificatesv1.KeyUsage{"digital signature", "key encipherment", "client auth"}) {
		t.Errorf("with an RSA key: %+v, %v", r, err)
	}
}

func TestServerAnswered(t *testing.T) {
	resource := schema.GroupResource{Resource: "csr"}
	proxy := apierrors.NewGenericServerResponse(http.StatusForbidden, "post", resource, "", "<html>", 0, true)
	for _, test := range []struct {
		err  error
		want bool
	}{
		{apierrors.NewUnauthorized("x"), true}, {apierrors.NewForbidden(resource, "x", nil), true}, {apierrors.NewNotFound(resource, "x"), true},
		{proxy, false}, {apierrors.NewInternalError(errors.New("x")), false}, {&url.Error{Op: "Post", Err: errors.New("refused")}, false},
	} {
		if got := serverAnswered(test.err); got != test.want {
			t.Errorf("serverAnswered(%v) = %v", test.err, got)
		}
	}
}

// FuzzParseRequest: another client may have written what the apiserver has under the request's name.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRequest(data)
		if (r == nil) == (err == nil) {
			t.Errorf("%v, %v", r, err)
		}
		if r != nil {
			_ = compatible(&csr{Spec: certificatesv1.CertificateSigningRequestSpec{Request: data}}, &csr{Spec: certificatesv1.CertificateSigningRequestSpec{Request: data}}, time.Now())
		}
	})
}
