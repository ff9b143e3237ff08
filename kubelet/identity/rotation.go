package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/klog/v2"
)

const (
	rotationWait = 15 * time.Minute // for a request to be signed, before it is made anew with another key
	minPause     = time.Second
	maxLook      = 10 * time.Second // between looks whether the addresses have changed: nothing announces it
	maxSleep     = 10 * time.Minute // a machine that was suspended has lost time
)

// rotation replaces certificates of one kind before they expire.
//
// Upstream: k8s.io/client-go/util/certificate/certificate_manager.go manager
type rotation struct {
	store  *store
	signer string
	use    certificatesv1.KeyUsage
	// template is what to ask for, nil as long as that is not known. One that changes is asked for at once.
	template func() *x509.CertificateRequest
	dynamic  bool // the template may change
	requests func() (Requests, error)

	failures prometheus.Counter
	ages     prometheus.Observer // of certificates when they are replaced, in seconds; nil if not measured

	force   atomic.Bool              // ask at once, whatever there is
	wake    chan struct{}            // ends the pause, capacity 1
	healthy atomic.Bool              // the apiserver itself signed the last request, or refused it; not while a first one is pending
	came    atomic.Pointer[error]    // what the last request came to so far
	last    *x509.CertificateRequest // what was signed last
	due     time.Time                // when dueOf is to be replaced
	dueOf   *x509.Certificate
}

// run asks for certificates in time, until ctx ends.
func (r *rotation) run(ctx context.Context) {
	fresh := wait.Backoff{Duration: 2 * time.Second, Factor: 2, Jitter: 0.1, Steps: 5, Cap: 32 * time.Second}
	backoff := fresh
	for {
		pause := r.pause()
		if template := r.template(); template != nil && pause <= 0 {
			if err := r.rotate(ctx, template); err == nil || errors.Is(err, errStale) {
				pause, backoff = minPause, fresh
			} else if ctx.Err() == nil {
				pause = backoff.Step()
				r.failures.Inc()
				r.came.Store(&err)
				klog.FromContext(ctx).Error(err, "There is no new certificate, it will be asked for again", "signer", r.signer, "after", pause)
			}
		}
		if r.dynamic {
			pause = min(pause, maxLook)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-time.After(min(max(pause, minPause), maxSleep)):
		}
	}
}

// pause is how long the certificate is still good enough, at most 0 if it is not.
func (r *rotation) pause() time.Duration {
	c := leaf(r.store.valid())
	if r.force.Load() || c == nil {
		return 0
	}
	// A signer that leaves out a name would leave it out again.
	if t := r.template(); t != nil && !covers(c, t) && !sameRequest(t, r.last) {
		return 0
	}
	if r.dueOf != c {
		r.due, r.dueOf = rotationDeadline(c), c
	}
	return time.Until(r.due)
}

// rotationDeadline is at a random point between 70 and 90 % of a certificate's life, so that nodes that were made
// together do not ask together.
func rotationDeadline(c *x509.Certificate) time.Time {
	life := float64(c.NotAfter.Sub(c.NotBefore))
	return c.NotBefore.Add(wait.Jitter(time.Duration(life*0.7), 0.2/0.7))
}

// covers tells whether a certificate has all the names that are wanted.
func covers(c *x509.Certificate, want *x509.CertificateRequest) bool {
	missing := func(ip net.IP) bool { return !slices.ContainsFunc(c.IPAddresses, ip.Equal) }
	return c.Subject.CommonName == want.Subject.CommonName && sets.New(c.Subject.Organization...).HasAll(want.Subject.Organization...) &&
		sets.New(c.DNSNames...).HasAll(want.DNSNames...) && !slices.ContainsFunc(want.IPAddresses, missing)
}

// sameRequest compares the names that are asked for.
func sameRequest(a, b *x509.CertificateRequest) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Subject.String() == b.Subject.String() && slices.Equal(a.DNSNames, b.DNSNames) && slices.EqualFunc(a.IPAddresses, b.IPAddresses, net.IP.Equal)
}

// rotate asks for a certificate with a new key, waits until it is signed, and uses it.
func (r *rotation) rotate(ctx context.Context, template *x509.CertificateRequest) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a private key: %w", err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return fmt.Errorf("make a private key: %w", err)
	}
	requests, err := r.requests()
	if err != nil {
		return err
	}
	made, err := request(ctx, requests, wanted{signer: r.signer, use: r.use, template: template, key: key})
	if err != nil {
		r.healthy.Store(serverAnswered(err))
		return err
	}
	if r.store.valid() == nil { // a refusal of before, by an apiserver whose roles were not there yet, no longer counts
		r.healthy.Store(false)
	}
	klog.FromContext(ctx).Info("Waiting for a certificate to be signed", "certificateSigningRequest", made.Name, "signer", r.signer)
	waits := fmt.Errorf("certificate signing request %s waits to be approved and signed", made.Name)
	r.came.Store(&waits)
	ctx, cancel := context.WithTimeout(ctx, rotationWait)
	defer cancel()
	var stale func() bool
	if r.dynamic {
		stale = func() bool { return !sameRequest(template, r.template()) }
	}
	cert, err := await(ctx, requests, made, stale)
	if err != nil {
		return err
	}
	former := leaf(r.store.current.Load())
	if _, err := r.store.update(cert, keyPEM); err != nil {
		return err
	}
	r.healthy.Store(true)
	if former != nil && r.ages != nil {
		r.ages.Observe(time.Since(former.NotBefore).Seconds())
	}
	r.last = template
	r.force.Store(false)
	return nil
}

// outcome is what the last request came to so far, nil if there was none.
func (r *rotation) outcome() error {
	if err := r.came.Load(); err != nil {
		return *err
	}
	return nil
}

// serverAnswered tells whether it was the apiserver that refused a request, and not a proxy in front of it.
func serverAnswered(err error) bool {
	return apierrors.IsUnauthorized(err) || !apierrors.IsUnexpectedServerError(err) && (apierrors.IsForbidden(err) || apierrors.IsNotFound(err))
}

// askNow asks for a certificate at once, whatever there is.
func (r *rotation) askNow() {
	r.force.Store(true)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}
