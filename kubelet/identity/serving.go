package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"
)

// ServingOptions say where the certificate of the kubelet's own port comes from: the apiserver with Bootstrap, else
// CertFile and KeyFile, else a certificate that the kubelet signs itself. NodeName and CertDir are required.
type ServingOptions struct {
	NodeName string
	CertDir  string // --cert-dir

	// Bootstrap is serverTLSBootstrap. It needs Requests, nil without an apiserver, and Addresses, the node's. Kubeconfig
	// is the file that says which cluster that is; "" for any.
	Bootstrap  bool
	Kubeconfig string
	Requests   Requests
	Addresses  func() []corev1.NodeAddress

	CertFile, KeyFile string // tlsCertFile, tlsPrivateKeyFile
	// Hostname and IPs are those that a self-signed certificate names; NodeName by default.
	Hostname   string
	IPs        []net.IP
	Registerer prometheus.Registerer // may be nil
}

// GetCertificate is tls.Config.GetCertificate.
type GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// Serving returns where a TLS server takes its certificate from, and what keeps that up to date until ctx ends. With
// files it fails when they cannot be read.
//
// Upstream: cmd/kubelet/app/server.go InitializeTLS, pkg/kubelet/certificate/kubelet.go
// NewKubeletServerCertificateManager, NewKubeletServerCertificateDynamicFileManager
func Serving(ctx context.Context, o ServingOptions) (get GetCertificate, run func(context.Context), err error) {
	if o.Bootstrap && o.Requests != nil {
		return signedByCluster(ctx, o)
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return nil, nil, errors.New("tlsCertFile and tlsPrivateKeyFile: one is set and the other is not")
	}
	if o.CertFile == "" {
		if o.CertFile, o.KeyFile, err = selfSigned(o); err != nil {
			return nil, nil, err
		}
	}
	files := &pair{certFile: o.CertFile, keyFile: o.KeyFile}
	if _, err := files.get(time.Now()); err != nil {
		return nil, nil, err
	}
	timeToLive(o.Registerer, "kubelet_certificate_manager_server_ttl_seconds", func() *tls.Certificate {
		c, err := files.get(time.Now())
		if err != nil {
			return nil
		}
		return c
	})
	get = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return files.get(time.Now()) }
	return get, func(ctx context.Context) { <-ctx.Done() }, nil
}

// errNoCertificate is what clients' handshakes fail with until somebody has approved the kubelet's request.
var errNoCertificate = errors.New("no serving certificate available for the kubelet")

// signedByCluster has the cluster's signer sign the certificate; approving the request is an administrator's matter.
func signedByCluster(ctx context.Context, o ServingOptions) (GetCertificate, func(context.Context), error) {
	files, err := newStore(o.CertDir, servingPrefix)
	if err != nil {
		return nil, nil, err
	}
	files.certFile, files.keyFile = o.CertFile, o.KeyFile
	f := promauto.With(o.Registerer)
	r := &rotation{
		store: files, signer: certificatesv1.KubeletServingSignerName, use: certificatesv1.UsageServerAuth,
		template: func() *x509.CertificateRequest { return servingTemplate(o.NodeName, o.Addresses()) }, dynamic: true,
		requests: func() (Requests, error) { return o.Requests, nil },
		failures: f.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_server_expiration_renew_errors", Help: "Attempts to renew the serving certificate that failed.",
		}),
		lives: f.NewHistogram(prometheus.HistogramOpts{
			Name: "kubelet_certificate_manager_server_rotation_seconds", Help: "Seconds that serving certificates lived before they were replaced.",
			Buckets: []float64{60, 3600, 14400, 86400, 604800, 2592000, 7776000, 15552000, 31104000, 124416000}, // a minute to four years
		}),
	}
	if err := r.startServing(ctx, o.Kubeconfig); err != nil {
		return nil, nil, err
	}
	timeToLive(o.Registerer, "kubelet_certificate_manager_server_ttl_seconds", files.valid)
	get := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if c := files.valid(); c != nil {
			return c, nil
		}
		return nil, errNoCertificate
	}
	return get, r.run, nil
}

// startServing takes the certificate that is there. One of a cluster that was here before, which the apiserver may refuse
// to speak to, is shown until this cluster has signed another.
//
// Upstream: k8s.io/client-go/util/certificate/certificate_manager.go getCurrentCertificateOrBootstrap
func (r *rotation) startServing(ctx context.Context, kubeconfig string) error {
	log, now := klog.FromContext(ctx), time.Now()
	have, err := r.store.load(ctx)
	if err != nil {
		return err
	}
	var of cluster
	if kubeconfig != "" {
		config, err := load(kubeconfig)
		if err == nil {
			of, err = clusterOf(config)
		}
		if err != nil {
			return fmt.Errorf("read --kubeconfig %s: %w", kubeconfig, err)
		}
	}
	i := slices.IndexFunc(have, func(k kept) bool { return now.Before(k.Leaf.NotAfter) })
	if i < 0 {
		return nil
	}
	former := of.formers(have[i].Certificate, now)
	log.Info("The serving certificate is chosen", "certificate", have[i].file, "until", have[i].Leaf.NotAfter, "ofFormerCluster", former)
	r.force.Store(former)
	r.store.set(have[i].Certificate)
	return nil
}

// servingTemplate asks for a certificate of all the node's addresses, nil while it has no IP.
//
// Upstream: pkg/kubelet/certificate/kubelet.go newGetTemplateFn, addressesToHostnamesAndIPs
func servingTemplate(nodeName string, addresses []corev1.NodeAddress) *x509.CertificateRequest {
	var names, ips []string
	for _, a := range addresses {
		ip := net.ParseIP(a.Address)
		switch a.Type {
		case corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName:
			if ip != nil {
				ips = append(ips, ip.String())
			} else if a.Type == corev1.NodeHostName && a.Address != "" {
				names = append(names, a.Address)
			}
		case corev1.NodeInternalDNS, corev1.NodeExternalDNS:
			if a.Address != "" {
				names = append(names, a.Address)
			}
		}
	}
	if len(ips) == 0 {
		return nil
	}
	// A template that only differs in its order would be asked for again.
	slices.Sort(names)
	slices.Sort(ips)
	out := &x509.CertificateRequest{Subject: subject(nodeName), DNSNames: slices.Compact(names)}
	for _, ip := range slices.Compact(ips) {
		out.IPAddresses = append(out.IPAddresses, net.ParseIP(ip))
	}
	return out
}

// selfSigned makes CERTDIR/kubelet.crt and kubelet.key, unless they are there and valid.
//
// Upstream: cmd/kubelet/app/server.go InitializeTLS
func selfSigned(o ServingOptions) (certFile, keyFile string, err error) {
	certFile, keyFile = filepath.Join(o.CertDir, "kubelet.crt"), filepath.Join(o.CertDir, "kubelet.key")
	have := pair{certFile: certFile, keyFile: keyFile}
	if c, err := have.get(time.Now()); err == nil && time.Now().Before(c.Leaf.NotAfter) {
		return certFile, keyFile, nil
	}
	host := o.Hostname
	if host == "" {
		host = o.NodeName
	}
	cert, key, err := certutil.GenerateSelfSignedCertKey(host, o.IPs, nil)
	if err != nil {
		return "", "", fmt.Errorf("make a self-signed certificate: %w", err)
	}
	if err := os.MkdirAll(o.CertDir, 0o755); err != nil {
		return "", "", fmt.Errorf("make --cert-dir: %w", err)
	}
	if err := writePrivate(keyFile, key); err != nil {
		return "", "", err
	}
	return certFile, keyFile, writePrivate(certFile, cert)
}

// pair is a certificate and its key in files that somebody may replace.
type pair struct {
	certFile, keyFile string

	mu      sync.Mutex
	checked time.Time
	stamp   [2]stamp
	current *tls.Certificate
}

// stamp tells one version of a file from another.
type stamp struct {
	modified time.Time
	size     int64
}

const pairAge = time.Second // how often the files are looked at

// get returns the certificate in the files, the one before while they do not fit together.
func (p *pair) get(now time.Time) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != nil && now.Sub(p.checked) < pairAge {
		return p.current, nil
	}
	p.checked = now
	var stamps [2]stamp
	for i, path := range []string{p.certFile, p.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return p.keep(fmt.Errorf("read the serving certificate: %w", err))
		}
		stamps[i] = stamp{info.ModTime(), info.Size()}
	}
	if p.current != nil && stamps == p.stamp {
		return p.current, nil
	}
	c, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
	if err != nil {
		return p.keep(fmt.Errorf("read the serving certificate %s and its key %s: %w", p.certFile, p.keyFile, err))
	}
	p.current, p.stamp = &c, stamps
	return p.current, nil
}

// keep goes on with what was there before, if there was something.
func (p *pair) keep(err error) (*tls.Certificate, error) {
	if p.current == nil {
		return nil, err
	}
	return p.current, nil
}
