package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	certificatesv1 "k8s.io/api/certificates/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/client"
)

// Client is a connection to the apiserver whose certificate is renewed before it expires.
type Client struct {
	// Config is for every client of the kubelet. Its transport always shows the newest certificate; content type and
	// limits are the caller's to set, on copies.
	Config *rest.Config

	rotation  *rotation
	store     *store
	bootstrap *rest.Config // nil if the kubeconfig has a certificate
	dialer    *connrotation.Dialer
	made      time.Time
	retry     time.Duration // between looks at the deadline

	choice   []kept                          // the certificates that were there at the start, the best first
	accepted atomic.Pointer[tls.Certificate] // the last that the apiserver knew
	unknown  atomic.Bool                     // it knows none
	judging  sync.Mutex
	refused  *tls.Certificate // the last that it did not know
	refusals int              // how often it said so
}

// ClientCertificates reads the kubeconfig, or writes one that names the certificate to come when there is none that can
// be used and a bootstrap kubeconfig says how to get a certificate. It asks the apiserver for nothing yet: Run does, so
// that a kubelet can start its static pods before its certificate is approved.
//
// Upstream: cmd/kubelet/app/server.go buildKubeletClientConfig, pkg/kubelet/certificate/bootstrap/bootstrap.go
// LoadClientConfig, pkg/kubelet/certificate/kubelet.go NewKubeletClientCertificateManager
func ClientCertificates(ctx context.Context, o Options) (*Client, error) {
	files, err := newStore(o.CertDir, clientPrefix)
	if err != nil {
		return nil, err
	}
	bootstrap, config, err := clientConfig(ctx, o, files.currentPath())
	if err != nil {
		return nil, err
	}
	files.certFile, files.keyFile = config.CertFile, config.KeyFile
	c := &Client{made: time.Now(), retry: expiryRetry, store: files, bootstrap: bootstrap, dialer: connrotation.NewDialer((&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext)}
	template := &x509.CertificateRequest{Subject: subject(o.NodeName)}
	c.rotation = &rotation{
		store: files, signer: certificatesv1.KubeAPIServerClientKubeletSignerName, use: certificatesv1.UsageClientAuth,
		template: func() *x509.CertificateRequest { return template },
		requests: func() (Requests, error) {
			if c.bootstrap != nil && (files.valid() == nil || c.unknown.Load()) {
				return requestsFor(c.bootstrap)
			}
			return requestsFor(c.Config)
		},
		wake: make(chan struct{}, 1),
		failures: promauto.With(o.Registerer).NewCounter(prometheus.CounterOpts{
			Name: "kubelet_certificate_manager_client_expiration_renew_errors", Help: "Attempts to renew the client certificate that failed.",
		}),
	}
	if err := c.start(ctx, o, config); err != nil {
		return nil, err
	}
	files.onUpdate = func() {
		klog.FromContext(ctx).Info("There is a new client certificate, the connections made with the one before are closed")
		c.dialer.CloseAll()
	}
	timeToLive(o.Registerer, "kubelet_certificate_manager_client_ttl_seconds", c.Certificate)
	if c.Config, err = c.rotating(config); err != nil {
		return nil, err
	}
	c.Config.Wrap(func(next http.RoundTripper) http.RoundTripper { return c.judged(ctx, next) })
	if bootstrap != nil {
		c.Config.Wrap(c.known)
	}
	return c, nil
}

// known is a transport whose requests wait for the first certificate. Without one the apiserver would take them for
// anonymous and refuse them, and watches and events would be tried again much later than they could be.
func (c *Client) known(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		select {
		case <-c.Ready():
			return next.RoundTrip(r)
		case <-r.Context().Done():
			if r.Body != nil {
				_ = r.Body.Close()
			}
			return nil, fmt.Errorf("wait for the client certificate: %w", r.Context().Err())
		}
	})
}

// requestsFor asks for certificates with the credentials of a config.
func requestsFor(config *rest.Config) (Requests, error) {
	c, err := client.New(config)
	if err != nil {
		return nil, err
	}
	return c.CertificateSigningRequests(), nil
}

// clientConfig returns what the kubelet uses, and what to ask for its first certificate with, nil if it has one.
func clientConfig(ctx context.Context, o Options, pemPath string) (bootstrap, config *rest.Config, err error) {
	if o.BootstrapKubeconfig != "" {
		ok, why, err := usable(o.Kubeconfig, time.Now())
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			klog.FromContext(ctx).Info("A client certificate will be bootstrapped", "why", why, "bootstrapKubeconfig", o.BootstrapKubeconfig)
			if bootstrap, err = load(o.BootstrapKubeconfig); err != nil {
				return nil, nil, fmt.Errorf("read --bootstrap-kubeconfig %s: %w", o.BootstrapKubeconfig, err)
			}
			config = rest.AnonymousClientConfig(bootstrap)
			config.CertFile, config.KeyFile = pemPath, pemPath
			return bootstrap, config, writeKubeconfig(o.Kubeconfig, o.BootstrapKubeconfig, pemPath)
		}
	}
	if config, err = load(o.Kubeconfig); err != nil {
		return nil, nil, fmt.Errorf("read --kubeconfig %s: %w", o.Kubeconfig, err)
	}
	return nil, config, nil
}

// rotating is the config with a transport that asks for the certificate at each handshake. A config without any
// certificate, of a token for example, goes on without.
func (c *Client) rotating(config *rest.Config) (*rest.Config, error) {
	out := rest.CopyConfig(config)
	out.CertFile, out.KeyFile, out.CertData, out.KeyData = "", "", nil, nil
	tlsConfig, err := rest.TLSConfigFor(out)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig's certificates: %w", err)
	}
	if tlsConfig == nil {
		tlsConfig = &tls.Config{}
	}
	tlsConfig.MinVersion = tls.VersionTLS12
	tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if cert := c.Certificate(); cert != nil {
			return cert, nil
		}
		return &tls.Certificate{}, nil
	}
	proxy := http.ProxyFromEnvironment
	if config.Proxy != nil {
		proxy = config.Proxy
	}
	out.Transport = utilnet.SetTransportDefaults(&http.Transport{
		Proxy: proxy, TLSHandshakeTimeout: 10 * time.Second, TLSClientConfig: tlsConfig, MaxIdleConnsPerHost: 25, DialContext: c.dialer.DialContext,
	})
	if !strings.Contains(out.Host, "://") { // without certificates client-go would take it for plain HTTP
		out.Host = "https://" + out.Host
	}
	out.TLSClientConfig, out.Proxy = rest.TLSClientConfig{}, nil // the transport has them
	return out, nil
}

// Certificate is the current one, nil as long as there is none.
func (c *Client) Certificate() *tls.Certificate { return c.store.current.Load() }

// Ready is closed when there is a certificate.
func (c *Client) Ready() <-chan struct{} { return c.store.first }

// Known is closed when requests no longer wait for a certificate; nil if they never did.
func (c *Client) Known() <-chan struct{} {
	if c.bootstrap == nil {
		return nil
	}
	return c.Ready()
}

// ErrExpired is returned by Run. The supervisor that starts the kubelet again may have new credentials for it.
var ErrExpired = errors.New("there is no valid client certificate and the apiserver answers")

const (
	withoutCertificate = 5 * time.Minute // how long the first one may take
	expiryRetry        = 10 * time.Second
)

// Run asks for certificates in time, until ctx ends or the certificate has expired although the apiserver answers: it
// then returns ErrExpired, and the kubelet ends.
func (c *Client) Run(ctx context.Context) error {
	asking, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { c.rotation.run(asking) })
	defer running.Wait()
	defer stop()
	for {
		if !time.Now().Before(c.deadline()) {
			if c.rotation.healthy.Load() {
				return ErrExpired
			}
			klog.FromContext(ctx).Error(c.rotation.outcome(), "There is no valid client certificate")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.retry): // and not at the deadline: timers stand still while a machine is suspended
		}
	}
}

// deadline is when the kubelet can no longer go on as it is.
func (c *Client) deadline() time.Time {
	if l := leaf(c.Certificate()); l != nil {
		return l.NotAfter
	}
	return c.made.Add(withoutCertificate)
}
