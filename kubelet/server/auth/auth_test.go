package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// apiserver answers reviews and counts them.
type apiserver struct {
	mu      sync.Mutex
	asked   []string
	failing error // what every review fails with
	failFor int   // so often, then no more
	delay   time.Duration
	allow   func(authorizationv1.SubjectAccessReviewSpec) bool
}

func (a *apiserver) review(what string) error {
	time.Sleep(a.delay)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, what)
	if a.failing != nil && a.failFor != 0 {
		a.failFor--
		return a.failing
	}
	return nil
}

func (a *apiserver) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.asked)
}

type tokens struct{ *apiserver }

func (t tokens) Create(_ context.Context, r *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
	if err := t.review("token " + r.Spec.Token); err != nil {
		return nil, err
	}
	name, ok := strings.CutPrefix(r.Spec.Token, "token-of-")
	return &authenticationv1.TokenReview{Status: authenticationv1.TokenReviewStatus{Authenticated: ok, User: authenticationv1.UserInfo{
		Username: name, UID: "7", Groups: []string{"people"}, Extra: map[string]authenticationv1.ExtraValue{"from": {"here"}},
	}}}, nil
}

type accesses struct{ *apiserver }

func (a accesses) Create(_ context.Context, r *authorizationv1.SubjectAccessReview, _ metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error) {
	what := r.Spec.ResourceAttributes
	if err := a.review(fmt.Sprintf("%s %s/%s %s", what.Verb, what.Resource, what.Subresource, what.Name)); err != nil {
		return nil, err
	}
	return &authorizationv1.SubjectAccessReview{Status: authorizationv1.SubjectAccessReviewStatus{Allowed: a.allow(r.Spec)}}, nil
}

// ca signs certificates.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) *ca {
	c := &ca{}
	c.cert, c.key = c.issue(t, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	return c
}

// issue makes a certificate of this authority, or of itself where there is none.
func (c *ca) issue(t *testing.T, change func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "alice", Organization: []string{"admins"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(template)
	parent, signer := c.cert, c.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (c *ca) pool() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	pool.AddCert(c.cert)
	return pool, nil
}

func TestCertificates(t *testing.T) {
	ours := newCA(t)
	a := New(Options{ClientCAs: ours.pool})
	for name, tt := range map[string]struct {
		by     *ca
		change func(*x509.Certificate)
		ok     bool
	}{
		"valid":           {ours, func(*x509.Certificate) {}, true},
		"other authority": {newCA(t), func(*x509.Certificate) {}, false},
		"self-signed":     {&ca{}, func(*x509.Certificate) {}, false},
		"expired":         {ours, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, false},
		"not yet valid":   {ours, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, false},
		"for servers":     {ours, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, false},
		"without name":    {ours, func(c *x509.Certificate) { c.Subject.CommonName = "" }, false},
		"two UIDs":        {ours, func(c *x509.Certificate) { c.Subject.ExtraNames = uids("7", "8") }, false},
		"empty UID":       {ours, func(c *x509.Certificate) { c.Subject.ExtraNames = uids("") }, false},
	} {
		cert, _ := tt.by.issue(t, tt.change)
		user, err := a.Authenticate(showing(cert))
		switch {
		case tt.ok && (err != nil || !reflect.DeepEqual(user, &User{Name: "alice", Groups: []string{"admins", authenticated}, Extra: user.Extra})):
			t.Errorf("%s: %+v, %v", name, user, err)
		case !tt.ok && !errors.Is(err, ErrUnauthenticated):
			t.Errorf("%s: %+v, %v", name, user, err)
		}
	}
}

// TestCertificateAttributes: authorizers get to know which certificate it was, and the UID that is in it.
func TestCertificateAttributes(t *testing.T) {
	ours := newCA(t)
	cert, _ := ours.issue(t, func(c *x509.Certificate) { c.Subject.ExtraNames = uids("7") })
	user, err := New(Options{ClientCAs: ours.pool}).Authenticate(showing(cert))
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(cert.Raw)
	want := map[string][]string{"authentication.kubernetes.io/credential-id": {"X509SHA256=" + hex.EncodeToString(hash[:])}}
	if user.UID != "7" || !reflect.DeepEqual(user.Extra, want) {
		t.Errorf("%+v, want UID 7 and %v", user, want)
	}
}

// showing is a request with a client certificate.
func showing(cert *x509.Certificate) *http.Request {
	r := request("")
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	return r
}

// uids are names of a certificate's subject that hold UIDs.
func uids(values ...string) (names []pkix.AttributeTypeAndValue) {
	for _, value := range values {
		names = append(names, pkix.AttributeTypeAndValue{Type: []int{1, 3, 6, 1, 4, 1, 57683, 2}, Value: value})
	}
	return names
}

func request(authorization string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return r
}

// TestCredentials: who somebody is by what they show, for each way to show it and each way that is looked at. Without
// tokens reviewed or certificates verified, those count as if they were not there.
func TestCredentials(t *testing.T) {
	ours := newCA(t)
	certificates := map[string]func(*testing.T) *x509.Certificate{
		"good": func(t *testing.T) *x509.Certificate { c, _ := ours.issue(t, func(*x509.Certificate) {}); return c },
		"bad":  func(t *testing.T) *x509.Certificate { c, _ := newCA(t).issue(t, func(*x509.Certificate) {}); return c },
		"nameless": func(t *testing.T) *x509.Certificate {
			c, _ := ours.issue(t, func(c *x509.Certificate) { c.Subject.CommonName = "" })
			return c
		},
	}
	for _, tt := range []struct {
		certificate, authorization string
		// Who it is where certificates and tokens count, with anonymous requests let in and without; then where
		// only certificates, only tokens and neither count, with anonymous requests let in.
		all, known, noTokens, noCertificates, none string
	}{
		{"", "", anonymous, "", anonymous, anonymous, anonymous},
		{"", "Bearer token-of-bob", "bob", "bob", anonymous, "bob", anonymous},
		{"", "bearer token-of-bob", "bob", "bob", anonymous, "bob", anonymous},
		{"", "Bearer x", "", "", anonymous, "", anonymous},
		{"", "Bearer token-of-", "", "", anonymous, "", anonymous},
		{"", "Bearer ", anonymous, "", anonymous, anonymous, anonymous},
		{"", "Bearer", anonymous, "", anonymous, anonymous, anonymous},
		{"", "Basic token-of-bob", anonymous, "", anonymous, anonymous, anonymous},
		{"good", "", "alice", "alice", "alice", anonymous, anonymous},
		{"good", "Bearer token-of-bob", "alice", "alice", "alice", "bob", anonymous},
		{"good", "Bearer x", "alice", "alice", "alice", "", anonymous},
		{"bad", "", "", "", "", anonymous, anonymous},
		{"bad", "Bearer token-of-bob", "bob", "bob", "", "bob", anonymous},
		{"bad", "Bearer x", "", "", "", "", anonymous},
		{"nameless", "", anonymous, "", anonymous, anonymous, anonymous},
		{"nameless", "Bearer token-of-bob", "bob", "bob", anonymous, "bob", anonymous},
	} {
		both := Options{ClientCAs: ours.pool, Tokens: tokens{&apiserver{}}, TokenTTL: time.Minute, Anonymous: true}
		known, noTokens, noCertificates, none := both, both, both, both
		known.Anonymous, noTokens.Tokens, noCertificates.ClientCAs = false, nil, nil
		none.Tokens, none.ClientCAs = nil, nil
		for _, o := range []struct {
			name    string
			options Options
			want    string
		}{{"all", both, tt.all}, {"no anonymous", known, tt.known}, {"no tokens", noTokens, tt.noTokens}, {"no certificates", noCertificates, tt.noCertificates}, {"neither", none, tt.none}} {
			r := request(tt.authorization)
			if tt.certificate != "" {
				r.TLS = showing(certificates[tt.certificate](t)).TLS
			}
			user, err := New(o.options).Authenticate(r)
			who := fmt.Sprintf("certificate %q, authorization %q, %s", tt.certificate, tt.authorization, o.name)
			switch {
			case o.want == "" && !errors.Is(err, ErrUnauthenticated):
				t.Errorf("%s: %+v, %v", who, user, err)
			case o.want != "" && (err != nil || user.Name != o.want):
				t.Errorf("%s: %+v, %v; want %s", who, user, err, o.want)
			case o.want == "bob" && (!slices.Equal(user.Groups, []string{"people", authenticated}) || user.UID != "7" || user.Extra["from"][0] != "here"):
				t.Errorf("%s: %+v", who, user)
			case o.want == anonymous && !slices.Equal(user.Groups, []string{unauthenticated}):
				t.Errorf("%s: %+v", who, user)
			}
		}
	}
}

// TestSocketTokens: browsers send tokens among a WebSocket's protocols, and handlers behind the server do not see them.
func TestSocketTokens(t *testing.T) {
	bob := tokenProtocol + base64.RawURLEncoding.EncodeToString([]byte("token-of-bob"))
	for protocols, want := range map[string]string{
		bob + ",v4.channel.k8s.io": "bob v4.channel.k8s.io", "v4.channel.k8s.io, " + bob: "bob v4.channel.k8s.io", "v4.channel.k8s.io": anonymous + " v4.channel.k8s.io",
		bob: "", bob + "," + bob + ",x": "", tokenProtocol + "!,x": "",
	} {
		r := request("")
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "websocket")
		r.Header.Set(socketProtocols, protocols)
		user, err := New(Options{Tokens: tokens{&apiserver{}}, TokenTTL: time.Minute, Anonymous: true}).Authenticate(r)
		got := ""
		if err == nil {
			got = user.Name + " " + r.Header.Get(socketProtocols)
		}
		if got != want {
			t.Errorf("%s: %q, %v; want %q", protocols, got, err, want)
		}
	}
}

// TestNobody: without any settings no request is let in, and no user may do anything.
func TestNobody(t *testing.T) {
	a := New(Options{})
	if user, err := a.Authenticate(request("Bearer token-of-bob")); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("%+v, %v", user, err)
	}
	if ok, err := a.Authorize(t.Context(), &User{Name: "bob", Groups: []string{"system:masters"}}, "get", "pods"); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if ok, err := New(Options{AlwaysAllow: true}).Authorize(t.Context(), &User{Name: "bob"}, "get", "pods"); !ok || err != nil {
		t.Errorf("AlwaysAllow: %v, %v", ok, err)
	}
}

func TestAuthorize(t *testing.T) {
	api := &apiserver{allow: func(s authorizationv1.SubjectAccessReviewSpec) bool {
		a := s.ResourceAttributes
		return s.User == "bob" && s.UID == "7" && a.Name == "node" && a.Version == "v1" && a.Verb == "get" && a.Subresource == "proxy"
	}}
	a := New(Options{Access: accesses{api}, NodeName: "node", AuthorizedTTL: time.Minute, RefusedTTL: time.Minute})
	bob := &User{Name: "bob", UID: "7", Groups: []string{"people"}, Extra: map[string][]string{"a": {"b"}, "c": {"d"}}}
	for range 3 {
		for _, tt := range []struct {
			user         *User
			verb         string
			subresources []string
			ok           bool
		}{
			{bob, "get", []string{"pods", "proxy"}, true},
			{bob, "get", []string{"proxy"}, true},
			{bob, "get", []string{"pods"}, false},
			{bob, "create", []string{"proxy"}, false},
			{&User{Name: "bob", UID: "8"}, "get", []string{"proxy"}, false},
			{bob, "get", nil, false},
		} {
			ok, err := a.Authorize(t.Context(), tt.user, tt.verb, tt.subresources...)
			if err != nil || ok != tt.ok {
				t.Errorf("%s %s %v: %v, %v", tt.user.Name, tt.verb, tt.subresources, ok, err)
			}
		}
	}
	want := []string{"get nodes/pods node", "get nodes/proxy node", "create nodes/proxy node", "get nodes/proxy node"}
	if !slices.Equal(api.asked, want) {
		t.Errorf("the apiserver was asked %q, want %q", api.asked, want)
	}
}

// TestCaches: answers hold as long as they should, errors do not, and many ask as one.
func TestCaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &apiserver{allow: func(s authorizationv1.SubjectAccessReviewSpec) bool { return s.User == "bob" }, delay: time.Millisecond}
		a := New(Options{Tokens: tokens{api}, TokenTTL: 2 * time.Minute, Access: accesses{api}, AuthorizedTTL: 5 * time.Minute, RefusedTTL: 30 * time.Second})
		asks := func(what string, want int, ask func()) {
			t.Helper()
			before := api.count()
			ask()
			if got := api.count() - before; got != want {
				t.Errorf("%s: asked %d times, want %d", what, got, want)
			}
		}
		good := func() { _, _ = a.Authenticate(request("Bearer token-of-bob")) }
		bad := func() { _, _ = a.Authenticate(request("Bearer x")) }
		may := func() { _, _ = a.Authorize(t.Context(), &User{Name: "bob"}, "get", "pods") }
		mayNot := func() { _, _ = a.Authorize(t.Context(), &User{Name: "eve"}, "get", "pods") }
		all := func() { good(); bad(); may(); mayNot() }
		asks("first", 4, all)
		asks("again", 0, all)
		time.Sleep(11 * time.Second)
		asks("11 s: the bad token", 1, all)
		time.Sleep(20 * time.Second)
		asks("31 s: what is refused", 2, all)
		time.Sleep(90 * time.Second)
		asks("2 min: the good token", 3, all)
		time.Sleep(3 * time.Minute)
		asks("5 min", 4, all)
		asks("together", 1, func() {
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() { _, _ = a.Authenticate(request("Bearer token-of-carol")) })
			}
			wg.Wait()
		})
		api.failing, api.failFor = errors.New("no"), -1
		for range 2 {
			asks("away, then tried until time is up", 20, func() {
				if _, err := a.Authenticate(request("Bearer token-of-dan")); err == nil {
					t.Error("let in without an answer")
				}
			})
		}
		api.failFor = 2
		asks("away, then back", 3, func() {
			if user, err := a.Authenticate(request("Bearer token-of-dan")); err != nil || user.Name != "dan" {
				t.Errorf("%+v, %v", user, err)
			}
		})
		api.failing, api.failFor = apierrors.NewForbidden(authenticationv1.Resource("tokenreviews"), "", nil), -1
		asks("forbidden", 1, func() { _, _ = a.Authenticate(request("Bearer token-of-erin")) })
	})
}

// TestManyTokens: guesses neither fill the memory nor flood the apiserver.
func TestManyTokens(t *testing.T) {
	api := &apiserver{}
	a := New(Options{Tokens: tokens{api}, TokenTTL: time.Minute})
	for i := range maxReviews + 100 {
		_, _ = a.Authenticate(request(fmt.Sprintf("Bearer %d", i)))
	}
	if n := a.tokens.answers.Len(); n != maxReviews {
		t.Errorf("%d answers are remembered, want %d", n, maxReviews)
	}
	synctest.Test(t, func(t *testing.T) {
		api := &apiserver{delay: time.Second}
		a := New(Options{Tokens: tokens{api}, TokenTTL: time.Minute})
		for i := range 10 * atOnce {
			go func() { _, _ = a.Authenticate(request(fmt.Sprintf("Bearer %d", i))) }()
		}
		time.Sleep(1500 * time.Millisecond)
		if n := api.count(); n != atOnce {
			t.Errorf("%d questions in the first second, want %d", n, atOnce)
		}
		time.Sleep(time.Minute)
	})
}
