package identity

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"
)

// kept is a certificate with its key, and the file that it was read from.
type kept struct {
	*tls.Certificate
	file string
	// given is set for one that is in the kubeconfig's own text. It is replaced soon after the start: it may be an
	// administrator's, with more rights than a node needs.
	given bool
	// current is set for the one that the kubelet has used last.
	current bool
}

// backdated is how long before a certificate is made the controller manager lets it begin, for nodes whose clocks are behind.
const backdated = 5 * time.Minute

// made is when the certificate was made at the latest, as far as it tells. The current one may be a successor of what else
// there is, and begin before it: it loses only against what was certainly made after it.
func (k kept) made() time.Time {
	if k.current {
		return k.Leaf.NotBefore.Add(backdated)
	}
	return k.Leaf.NotBefore
}

// cluster is the certificates of a kubeconfig's cluster: those that the apiserver's own must be signed by, and as a rule,
// but not necessarily, nodes' as well.
type cluster []*x509.Certificate

// clusterOf reads them; none if the kubeconfig has none.
func clusterOf(config *rest.Config) (cluster, error) {
	data := config.CAData
	if len(data) == 0 && config.CAFile != "" {
		var err error
		if data, err = os.ReadFile(config.CAFile); err != nil {
			return nil, fmt.Errorf("read the cluster's certificate authority: %w", err)
		}
	}
	if len(data) == 0 {
		return nil, nil
	}
	return certutil.ParseCertsPEM(data)
}

// signed tells whether a certificate that is valid now is one of the cluster's.
func (c cluster) signed(cert *tls.Certificate, now time.Time) bool {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, ca := range c {
		roots.AddCert(ca)
	}
	for _, der := range cert.Certificate[1:] {
		if ca, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(ca)
		}
	}
	_, err := cert.Leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err == nil
}

// formers tells whether a certificate is of a cluster that was here before: this one has not signed it, and did not exist
// when it was made.
func (c cluster) formers(cert *tls.Certificate, now time.Time) bool {
	if len(c) == 0 || c.signed(cert, now) {
		return false
	}
	return !slices.ContainsFunc(c, func(ca *x509.Certificate) bool { return !cert.Leaf.NotBefore.Before(ca.NotBefore) })
}

// rank puts the certificate that is to be used first: one that has not expired, that the cluster has signed, that is the
// newest; among equals the order stays. Certificates that are there twice are so once.
func rank(have []kept, this cluster, now time.Time) []kept {
	var out []kept
	for _, k := range have {
		if i := slices.IndexFunc(out, func(o kept) bool { return o.Leaf.Equal(k.Leaf) }); i >= 0 {
			out[i].given = out[i].given || k.given
		} else {
			out = append(out, k)
		}
	}
	order := func(yes bool) int {
		if yes {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(out, func(a, b kept) int {
		return cmp.Or(
			order(now.Before(a.Leaf.NotAfter))-order(now.Before(b.Leaf.NotAfter)),
			order(this.signed(a.Certificate, now))-order(this.signed(b.Certificate, now)),
			b.made().Compare(a.made()),
		)
	})
	return out
}

// refusalsMost is how many answers in a row say that the apiserver does not know a certificate, and not that it is just
// starting.
const refusalsMost = 3

// judged is a transport that notes whether the apiserver accepts the certificate that is shown to it.
func (c *Client) judged(ctx context.Context, next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		shown := c.Certificate()
		answer, err := next.RoundTrip(r)
		if err == nil && shown != nil {
			c.judge(ctx, shown, answer.StatusCode)
		}
		return answer, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// judge takes note of the apiserver's answer to a certificate. One that it accepted once is kept whatever it says later;
// one that it has only refused gives way to the next that there is, or else the bootstrap kubeconfig gets a new one.
func (c *Client) judge(ctx context.Context, shown *tls.Certificate, code int) {
	if code >= http.StatusInternalServerError || shown == c.accepted.Load() {
		return
	}
	c.judging.Lock()
	defer c.judging.Unlock()
	if shown != c.Certificate() {
		return // another answer was quicker
	}
	if code != http.StatusUnauthorized {
		c.accepted.Store(shown)
		c.unknown.Store(false)
		return
	}
	if c.refused != shown {
		c.refused, c.refusals = shown, 0
	}
	if c.refusals++; c.refusals != refusalsMost {
		return
	}
	log := klog.FromContext(ctx)
	i := slices.IndexFunc(c.choice, func(k kept) bool { return k.Certificate == shown })
	last := i == len(c.choice)-1 || i < 0
	switch {
	case c.bootstrap != nil && last:
		log.Error(nil, "The apiserver does not accept the client certificate, a new one is asked for with the bootstrap kubeconfig", "certificate", c.file(shown))
		c.unknown.Store(true)
		c.rotation.askNow()
	case i < 0 || len(c.choice) < 2:
		log.Error(nil, "The apiserver does not accept the client certificate, and there is no other", "certificate", c.file(shown))
	default:
		next := c.choice[(i+1)%len(c.choice)]
		log.Error(nil, "The apiserver does not accept the client certificate, another one is tried", "certificate", c.file(shown), "next", next.file)
		if next.given {
			c.rotation.askNow()
		}
		c.store.set(next.Certificate)
	}
}

// file is where a certificate was read from.
func (c *Client) file(shown *tls.Certificate) string {
	for _, k := range c.choice {
		if k.Certificate == shown {
			return k.file
		}
	}
	return c.store.currentPath()
}

// start takes the best certificate of those that are there. One that has expired is taken if there is no other way to
// get one, so that the kubelet soon knows. One of a cluster that was here before is not taken if there is another way.
func (c *Client) start(ctx context.Context, o Options, config *rest.Config) error {
	log, now := klog.FromContext(ctx), time.Now()
	have, err := c.store.load(ctx)
	if err != nil {
		return err
	}
	if len(config.CertData) > 0 && len(config.KeyData) > 0 {
		given, err := tls.X509KeyPair(config.CertData, config.KeyData)
		if err != nil {
			return fmt.Errorf("read the kubeconfig's client certificate: %w", err)
		}
		have = append(have, kept{Certificate: &given, file: o.Kubeconfig, given: true})
	}
	this, err := clusterOf(config)
	if err != nil {
		return err
	}
	have = rank(have, this, now)
	if c.bootstrap != nil {
		have = slices.DeleteFunc(have, func(k kept) bool {
			former := this.formers(k.Certificate, now)
			if former {
				log.Info("A client certificate is of a cluster that was here before, it is not used", "certificate", k.file)
			}
			return former || !now.Before(k.Leaf.NotAfter)
		})
	}
	if len(have) == 0 {
		c.rotation.force.Store(true)
		return nil
	}
	first := have[0]
	c.choice = []kept{first}
	var others []string
	for _, k := range have[1:] {
		others = append(others, k.file)
		if now.Before(k.Leaf.NotAfter) {
			c.choice = append(c.choice, k)
		}
	}
	log.Info("The client certificate is chosen", "certificate", first.file, "until", first.Leaf.NotAfter, "insteadOf", others)
	if first.given {
		if _, err := c.store.write(config.CertData, config.KeyData); err != nil {
			log.Error(err, "The kubeconfig's client certificate is not kept")
		}
	}
	if first.given || !now.Before(first.Leaf.NotAfter) {
		c.rotation.force.Store(true)
	}
	c.store.set(first.Certificate)
	return nil
}
