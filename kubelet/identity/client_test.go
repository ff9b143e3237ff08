package identity

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
)

type named struct {
	crypto.Signer
	node string
}

func (n named) Name() (string, error) { return requestName(n.Public(), n.node) }

// whoAmI answers with the serial of the client's certificate and the client's address.
func whoAmI(w http.ResponseWriter, r *http.Request) {
	serial := "none"
	if len(r.TLS.PeerCertificates) > 0 {
		serial = r.TLS.PeerCertificates[0].SerialNumber.String()
	}
	fmt.Fprintf(w, "%s %s", serial, r.RemoteAddr)
}

func ask(t *testing.T, config *rest.Config, url string) (serial, connection string) {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(body), &serial, &connection); err != nil {
		t.Fatalf("answer %q: %v", body, err)
	}
	return serial, connection
}

// TestNewCertificateNewConnection: connections live as long as the certificate that they were made with.
func TestNewCertificateNewConnection(t *testing.T) {
	noLeaks(t)
	a := newAuthority(t)
	s := a.server(whoAmI)
	cert, key := a.issue("n", time.Now().Add(time.Hour))
	dir := t.TempDir()
	c, err := ClientCertificates(t.Context(), Options{NodeName: "n", CertDir: dir, Kubeconfig: kubeconfig(t, s, embedded(cert, key))})
	if err != nil {
		t.Fatal(err)
	}
	private(t, filepath.Join(dir, "kubelet-client-current.pem"))
	<-c.Ready()
	serial, first := ask(t, c.Config, s.URL)
	if _, same := ask(t, c.Config, s.URL); serial != "2" || same != first {
		t.Errorf("certificate %s, connections %s and %s", serial, first, same)
	}
	if _, err := c.store.update(a.issue("n", time.Now().Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	if serial, second := ask(t, c.Config, s.URL); serial != "3" || second == first {
		t.Errorf("after the rotation: certificate %s, the connection before was %s and is %s", serial, first, second)
	}
	c.dialer.CloseAll()
	if l := leaf(c.Certificate()); l.SerialNumber.Int64() != 3 || !c.deadline().Equal(l.NotAfter) {
		t.Errorf("the certificate is %v, it is good until %v", l.SerialNumber, c.deadline())
	}
}

// TestBootstrapConfig: without a kubeconfig one is written that names the certificate to come, and nothing is asked of the
// apiserver until it comes, since it would not know the kubelet.
func TestBootstrapConfig(t *testing.T) {
	a := newAuthority(t)
	var unknown atomic.Int32
	s := a.server(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			unknown.Add(1)
		}
		whoAmI(w, r)
	})
	dir := t.TempDir()
	o := Options{NodeName: "n", CertDir: dir, Kubeconfig: filepath.Join(dir, "kubeconfig"), BootstrapKubeconfig: kubeconfig(t, s, "{token: x}")}
	c, err := ClientCertificates(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	private(t, o.Kubeconfig)
	impatient := rest.CopyConfig(c.Config)
	impatient.Timeout = 20 * time.Millisecond
	early, err := rest.HTTPClientFor(impatient)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := early.Post(s.URL, "text/plain", strings.NewReader("x")); err == nil {
		t.Errorf("an answer before there is a certificate: %v", answer.Status)
		_ = answer.Body.Close()
	}
	patient, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error)
	go func() {
		answer, err := patient.Get(s.URL)
		if err == nil {
			err = answer.Body.Close()
		}
		answered <- err
	}()
	select {
	case <-c.Ready():
		t.Error("ready without a certificate")
	default:
	}
	closeConnections := c.store.onUpdate
	c.store.onUpdate = func() {
		select {
		case <-c.Ready():
			t.Error("ready, and connections are still going to be closed")
		default:
		}
		closeConnections()
	}
	if _, err := c.store.update(a.issue("n", time.Now().Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	<-c.Ready()
	if err := <-answered; err != nil || unknown.Load() > 0 {
		t.Errorf("%v; requests without a certificate: %d", err, unknown.Load())
	}
	if serial, _ := ask(t, c.Config, s.URL); serial != "2" {
		t.Errorf("the certificate is %s", serial)
	}
	if ok, why, err := usable(o.Kubeconfig, time.Now()); !ok || err != nil {
		t.Errorf("the kubeconfig cannot be used: %v, %v", why, err)
	}
	if again, err := ClientCertificates(t.Context(), o); err != nil || again.Certificate() == nil {
		t.Errorf("after a restart: %v", err)
	}
}

func TestNoConfig(t *testing.T) {
	dir := t.TempDir()
	for _, o := range []Options{
		{Kubeconfig: "/none", CertDir: dir}, {Kubeconfig: filepath.Join(dir, "new"), BootstrapKubeconfig: "/none", CertDir: dir},
	} {
		if _, err := ClientCertificates(t.Context(), o); err == nil {
			t.Errorf("ClientCertificates(%+v) succeeded", o)
		}
		if err := Bootstrap(t.Context(), o); err == nil {
			t.Errorf("Bootstrap(%+v) succeeded", o)
		}
	}
}

// unauthorized is the apiserver's answer to a client that it does not know.
func unauthorized(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","code":401}`)
}

// TestExpired: an expired certificate ends the kubelet only when the apiserver is there to tell.
func TestExpired(t *testing.T) {
	noLeaks(t)
	a := newAuthority(t)
	var away atomic.Bool
	away.Store(true)
	var refused atomic.Int32
	s := a.server(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		refused.Add(1)
		unauthorized(w)
	})
	cert, key := a.issue("n", time.Now().Add(-time.Minute))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := ClientCertificates(ctx, Options{NodeName: "n", CertDir: t.TempDir(), Kubeconfig: kubeconfig(t, s, embedded(cert, key))})
	if err != nil {
		t.Fatal(err)
	}
	c.made, c.retry = time.Now().Add(-time.Hour), 50*time.Millisecond
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	goesOn(t, ended, "while the apiserver was away")
	away.Store(false)
	expires(t, ended)
	if refused.Load() == 0 {
		t.Error("it ended without a refusal")
	}
}

func goesOn(t *testing.T, ended <-chan error, when string) {
	t.Helper()
	select {
	case err := <-ended:
		t.Fatalf("it ended %s: %v", when, err)
	case <-time.After(300 * time.Millisecond):
	}
}

func expires(t *testing.T, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if !errors.Is(err, ErrExpired) {
			t.Errorf("Run = %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on with an expired certificate")
	}
}

// TestExpiredMeanwhile: a machine that was suspended, or whose clock was set, finds its certificate expired before the time
// that it was to wait has passed.
func TestExpiredMeanwhile(t *testing.T) {
	noLeaks(t)
	a := newAuthority(t)
	s := a.server(func(w http.ResponseWriter, _ *http.Request) { unauthorized(w) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cert, key := a.issue("n", time.Now().Add(time.Hour))
	c, err := ClientCertificates(ctx, Options{NodeName: "n", CertDir: t.TempDir(), Kubeconfig: kubeconfig(t, s, embedded(cert, key))})
	if err != nil {
		t.Fatal(err)
	}
	c.retry = 50 * time.Millisecond
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	for !c.rotation.healthy.Load() { // its first request was refused
		time.Sleep(time.Millisecond)
	}
	goesOn(t, ended, "with a certificate that has not expired")
	old, err := tls.X509KeyPair(a.issue("n", time.Now().Add(-time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	c.store.current.Store(&old)
	expires(t, ended)
}

// TestPendingFirstCertificate: a kubelet whose first request has not been approved yet waits, however long that takes.
// Ended and started again it would ask with another key, and what is approved then would be of no use.
func TestPendingFirstCertificate(t *testing.T) {
	noLeaks(t)
	c, watched := pending(t, "")
	c.made, c.retry = time.Now().Add(-time.Hour), 50*time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	<-watched
	goesOn(t, ended, "while its request waited for approval")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v at the end of its context", err)
	}
}

// TestPendingAfterRefusal: a refusal counts until the next request is taken.
func TestPendingAfterRefusal(t *testing.T) {
	noLeaks(t)
	c, watched := pending(t, "")
	c.rotation.healthy.Store(true) // as a refusal leaves it
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	<-watched
	if c.rotation.healthy.Load() {
		t.Error("a first request that waits for approval would end the kubelet")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v at the end of its context", err)
	}
}

// TestDeniedFirstCertificate: what is logged while there is no certificate says what the last request came to.
func TestDeniedFirstCertificate(t *testing.T) {
	noLeaks(t)
	c, watched := pending(t, `,"status":{"conditions":[{"type":"Denied","reason":"Stranger","message":"who is n?"}]}`)
	c.made, c.retry = time.Now().Add(-time.Hour), 10*time.Millisecond
	logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logger))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	logged := func() string { return logger.GetSink().(ktesting.Underlier).GetBuffer().String() }
	want := regexp.MustCompile(`There is no valid client certificate"? err="certificate signing request r: Denied: Stranger: who is n\?"`)
	for until := time.Now().Add(30 * time.Second); !want.MatchString(logged()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("the log lacks %s:\n%s", want, logged())
		}
	}
	cancel()
	if err := <-ended; err != nil || len(watched) > 0 {
		t.Errorf("Run = %v at the end of its context, %d watches of a request that was denied", err, len(watched))
	}
}

// pending is a client without a certificate, of an apiserver that takes requests, gives them the status, and does not sign
// them. The channel tells that a request is waited for.
func pending(t *testing.T, status string) (*Client, <-chan struct{}) {
	t.Helper()
	watched := make(chan struct{}, 10)
	s := newAuthority(t).server(func(w http.ResponseWriter, r *http.Request) {
		const pending = `"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest`
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Method == http.MethodPost:
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, `{%s","metadata":{"name":"r","uid":"1"}}`, pending)
		case r.URL.Query().Get("watch") == "true":
			watched <- struct{}{}
			<-r.Context().Done()
		default:
			fmt.Fprintf(w, `{%sList","metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"r","uid":"1"}%s}]}`, pending, status)
		}
	})
	dir := t.TempDir()
	c, err := ClientCertificates(t.Context(), Options{NodeName: "n", CertDir: dir, Kubeconfig: filepath.Join(dir, "kubeconfig"), BootstrapKubeconfig: kubeconfig(t, s, "{token: x}")})
	if err != nil {
		t.Fatal(err)
	}
	return c, watched
}

func TestRunEnds(t *testing.T) {
	noLeaks(t)
	a := newAuthority(t)
	s := a.server(whoAmI)
	cert, key := a.issue("n", time.Now().Add(time.Hour))
	ctx, cancel := context.WithCancel(t.Context())
	c, err := ClientCertificates(ctx, Options{NodeName: "n", CertDir: t.TempDir(), Kubeconfig: kubeconfig(t, s, embedded(cert, key))})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := c.Run(ctx); err != nil {
		t.Errorf("Run = %v at the end of its context", err)
	}
}

// TestAwaitServer: an answer is an answer, whatever it says; a server that is not there is waited for.
func TestAwaitServer(t *testing.T) {
	for _, code := range []int{http.StatusOK, http.StatusUnauthorized, http.StatusForbidden} {
		if err := awaitServer(t.Context(), clientOf(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })); err != nil {
			t.Errorf("an answer of %d: %v", code, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	down := clientOf(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	if err := awaitServer(ctx, down); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a server: %v", err)
	}
}

func serverOf(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}
