package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// ServingOptions are what the certificate of the kubelet's own port is asked for with.
type ServingOptions struct {
	NodeName string
	CertDir  string // --cert-dir
	// Kubeconfig is the file that says which cluster the certificate is for; "" for any.
	Kubeconfig string
	Requests   Requests
	// Addresses are the node's now.
	Addresses func() []corev1.NodeAddress
	// CertFile and KeyFile are tlsCertFile and tlsPrivateKeyFile: the certificate until the first one is signed.
	CertFile, KeyFile string
	Registerer        prometheus.Registerer // may be nil
}

const day = 24 * 3600.0 // seconds

// GetCertificate is tls.Config.GetCertificate.
type GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// errNoCertificate is what clients' handshakes fail with until the kubelet's request is approved.
var errNoCertificate = errors.New("no serving certificate available for the kubelet")

// Serving returns where a TLS server takes its certificate from, serverTLSBootstrap, and what renews it until ctx ends.
// The cluster signs it after an administrator has approved the kubelet's request.
//
// Upstream: pkg/kubelet/certificate/kubelet.go NewKubeletServerCertificateManager
func Serving(ctx context.Context, o ServingOptions) (GetCertificate, func(context.Context), error) {
	files, err := newStore(o.CertDir, servingPrefix)
	if err != nil {
		return nil, nil, err
	}
	files.certFile, files.keyFile = o.CertFile, o.KeyFile
	r := &rotation{
		store: files, signer: certificatesv1.KubeletServingSignerName, use: certificatesv1.UsageServerAuth,
		template: func() *x509.CertificateRequest { return servingTemplate(o.NodeName, o.Addresses()) }, dynamic: true,
		requests: func() (Requests, error) { return o.Requests, nil },
		failures: promauto.With(o.Registerer).NewCounter(prometheus.CounterOpts{
			Name: "kubelet_server_expiration_renew_errors", Help: "Attempts to renew the serving certificate that failed.",
		}),
		ages: promauto.With(o.Registerer).NewHistogram(prometheus.HistogramOpts{
			Name: "kubelet_certificate_manager_server_rotation_seconds", Help: "How long serving certificates had lived when they were replaced.",
			Buckets: []float64{60, 3600, 4 * 3600, day, 7 * day, 30 * day, 90 * day, 180 * day, 360 * day, 1440 * day},
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
func (r *rotation) startServing(ctx context.Context, kubeconfig string) error {
	log, now := klog.FromContext(ctx), time.Now()
	have, err := r.store.load(ctx)
	if err != nil {
		return err
	}
	var this cluster
	if kubeconfig != "" {
		config, err := load(kubeconfig)
		if err == nil {
			this, err = clusterOf(config)
		}
		if err != nil {
			return fmt.Errorf("read --kubeconfig %s: %w", kubeconfig, err)
		}
	}
	i := slices.IndexFunc(have, func(k kept) bool { return now.Before(k.Leaf.NotAfter) })
	if i < 0 {
		return nil
	}
	former := this.formers(have[i].Certificate, now)
	log.Info("The serving certificate is chosen", "certificate", have[i].file, "until", have[i].Leaf.NotAfter, "ofFormerCluster", former)
	r.force.Store(former)
	r.store.set(have[i].Certificate)
	return nil
}

// servingTemplate asks for a certificate of all the node's addresses, nil while it has no IP.
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
