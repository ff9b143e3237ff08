// Package auth says who sends a request to the node and whether they may: client certificates and TokenReviews,
// SubjectAccessReviews, and bounded caches of what the apiserver answered. It does without k8s.io/apiserver, which would
// add more to the binary than the rest of the server has.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/http"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/apis/asn1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Names of users and groups that the server itself gives, by the credentials that a request has.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/authentication/user/user.go
const (
	anonymous       = "system:anonymous"
	unauthenticated = "system:unauthenticated"
	authenticated   = "system:authenticated"
	credentialID    = "authentication.kubernetes.io/credential-id" // in User.Extra
)

// User is who sends a request.
type User struct {
	Name, UID string
	Groups    []string
	Extra     map[string][]string
}

// Known tells whether the user has shown credentials.
func (u *User) Known() bool { return u.Name != "" && u.Name != anonymous }

// TokenReviewer asks the apiserver whose a token is.
type TokenReviewer interface {
	Create(context.Context, *authenticationv1.TokenReview, metav1.CreateOptions) (*authenticationv1.TokenReview, error)
}

// AccessReviewer asks the apiserver whether a user may do something.
type AccessReviewer interface {
	Create(context.Context, *authorizationv1.SubjectAccessReview, metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error)
}

// Options say who is let in. The zero value refuses all.
type Options struct {
	// ClientCAs returns the authorities of client certificates; nil if certificates do not count. It is asked for
	// each request, so that authorities can change.
	ClientCAs func() (*x509.CertPool, error)
	// Tokens reviews bearer tokens; nil if they do not count.
	Tokens   TokenReviewer
	TokenTTL time.Duration
	// Anonymous lets requests without credentials on to the authorizer, as system:anonymous.
	Anonymous bool

	// Access reviews what users want to do. AlwaysAllow lets every user do everything instead.
	Access                    AccessReviewer
	AlwaysAllow               bool
	AuthorizedTTL, RefusedTTL time.Duration
	// NodeName is the node whose subresources are asked for.
	NodeName string
}

// Auth decides over requests. It is safe for concurrent use.
type Auth struct {
	options  Options
	tokens   *reviews[*User]
	accesses *reviews[bool]
}

// New makes an Auth; it sends no request yet.
func New(o Options) *Auth {
	return &Auth{options: o, tokens: newReviews[*User](), accesses: newReviews[bool]()}
}

// ErrUnauthenticated says that a request has no valid credentials.
var ErrUnauthenticated = errors.New("unauthenticated")

// Authenticate returns who sends the request. Bad credentials are an error even where anonymous requests are let in,
// unless they are of a kind that is not read here.
func (a *Auth) Authenticate(r *http.Request) (*User, error) {
	var problems []error
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && a.options.ClientCAs != nil {
		user, err := a.certificateUser(r.TLS.PeerCertificates, time.Now())
		if user != nil {
			return user, nil
		}
		if err != nil {
			problems = append(problems, err)
		}
	}
	if a.options.Tokens != nil {
		token, err := tokenOf(r)
		if err == nil && token != "" {
			var user *User
			if user, err = a.tokenUser(r.Context(), token); err == nil {
				return user, nil
			}
		}
		if err != nil {
			problems = append(problems, err)
		}
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrUnauthenticated, errors.Join(problems...))
	}
	if a.options.Anonymous {
		return &User{Name: anonymous, Groups: []string{unauthenticated}}, nil
	}
	return nil, ErrUnauthenticated
}

// certificateUser verifies a client certificate: its common name is the user, its organizations are the groups. It
// returns nil for a valid one that names no user.
func (a *Auth) certificateUser(chain []*x509.Certificate, now time.Time) (*User, error) {
	roots, err := a.options.ClientCAs()
	if err != nil {
		return nil, err
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("verify client certificate %q: %w", chain[0].Subject, err)
	}
	subject := chain[0].Subject
	if subject.CommonName == "" {
		return nil, nil
	}
	uid, err := uidOf(subject)
	if err != nil {
		return nil, fmt.Errorf("read client certificate %q: %w", subject, err)
	}
	hash := sha256.Sum256(chain[0].Raw)
	return &User{
		Name: subject.CommonName, UID: uid, Groups: withAuthenticated(subject.Organization),
		Extra: map[string][]string{credentialID: {fmt.Sprintf("X509SHA256=%x", hash)}},
	}, nil
}

// uidOf is the UID in a certificate's subject, "" if it has none. A certificate with several is refused.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/authentication/request/x509/x509.go parseUIDFromCert
func uidOf(subject pkix.Name) (uid string, err error) {
	for _, name := range subject.Names {
		if !name.Type.Equal(asn1.X509UID()) {
			continue
		}
		if text, ok := name.Value.(string); uid == "" && ok && text != "" {
			uid = text
		} else {
			return "", errors.New("its subject has an empty UID, or more than one")
		}
	}
	return uid, nil
}
