// Package identity is how the kubelet proves who it is: the client certificate with which it speaks to the apiserver,
// got with a bootstrap kubeconfig and renewed before it expires, and the serving certificate that it shows on its own
// port. Files are where and as upstream's are; keys are readable by their owner alone.
package identity

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/transport"
	certutil "k8s.io/client-go/util/cert"
)

// Options say who the kubelet is and where its credentials are. All but BootstrapKubeconfig are required.
type Options struct {
	NodeName   string
	Kubeconfig string // --kubeconfig: written when it was not there
	CertDir    string // --cert-dir
	// BootstrapKubeconfig is --bootstrap-kubeconfig; "" for none.
	BootstrapKubeconfig string
	Registerer          prometheus.Registerer // may be nil
}

const (
	clientPrefix  = "kubelet-client" // CERTDIR/kubelet-client-current.pem
	servingPrefix = "kubelet-server" // CERTDIR/kubelet-server-current.pem
)

// subject is the name that the node authorizer knows nodes by.
func subject(nodeName string) pkix.Name {
	return pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + nodeName}
}

// load reads a kubeconfig's current context.
func load(path string) (*rest.Config, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: path}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
}

// stillValid tells why a kubeconfig has no client certificate that can be used now, nil if it has one.
//
// Upstream: pkg/kubelet/certificate/bootstrap/bootstrap.go isClientConfigStillValid
func stillValid(path string, now time.Time) error {
	config, err := load(path)
	if err != nil {
		return fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	t, err := config.TransportConfig()
	if err != nil {
		return fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	// It reads the files that the kubeconfig names.
	if _, err := transport.TLSConfigFor(t); err != nil {
		return fmt.Errorf("read the certificates of kubeconfig %s: %w", path, err)
	}
	return unexpired("the client certificate of kubeconfig "+path, t.TLS.CertData, now)
}

// unexpired tells why certificates are not valid any more.
func unexpired(what string, pem []byte, now time.Time) error {
	certs, err := certutil.ParseCertsPEM(pem)
	if err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	for _, c := range certs {
		if now.After(c.NotAfter) {
			return fmt.Errorf("%s expired at %v", what, c.NotAfter)
		}
	}
	return nil
}

// usable tells whether the kubelet can go on with its kubeconfig. An error is one that a bootstrap would not mend.
func usable(path string, now time.Time) (ok bool, why, err error) {
	if _, err := os.Stat(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, err, nil
		}
		return false, nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	if why := stillValid(path, now); why != nil {
		return false, why, nil
	}
	return true, nil, nil
}

// writeKubeconfig writes one with the cluster of the bootstrap kubeconfig, its proxy and all, and a client certificate in a file.
func writeKubeconfig(path, bootstrapPath, pemPath string) error {
	bootstrap, err := (&clientcmd.ClientConfigLoadingRules{ExplicitPath: bootstrapPath}).Load()
	if err == nil {
		err = clientcmdapi.MinifyConfig(bootstrap)
	}
	if err != nil {
		return fmt.Errorf("read --bootstrap-kubeconfig %s: %w", bootstrapPath, err)
	}
	cluster := bootstrap.Clusters[bootstrap.Contexts[bootstrap.CurrentContext].Cluster]
	data, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"default-cluster": cluster},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"default-auth": {ClientCertificate: pemPath, ClientKey: pemPath}},
		Contexts:       map[string]*clientcmdapi.Context{"default-context": {Cluster: "default-cluster", AuthInfo: "default-auth", Namespace: "default"}},
		CurrentContext: "default-context",
	})
	if err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return writePrivate(path, data)
}

// writePrivate puts a file in place in one step, readable by its owner alone.
func writePrivate(path string, data []byte) error {
	if err := renameio.WriteFile(path, data, 0o600, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(0o600)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// leaf is the certificate itself, nil if there is none.
func leaf(c *tls.Certificate) *x509.Certificate {
	if c == nil {
		return nil
	}
	return c.Leaf
}

// timeToLive is the gauge of a certificate's remaining seconds, +Inf without one.
func timeToLive(registerer prometheus.Registerer, name string, current func() *tls.Certificate) {
	if registerer == nil {
		return
	}
	registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: name, Help: "Seconds until the certificate expires, negative if it has, +Inf if there is none.",
	}, func() float64 {
		if l := leaf(current()); l != nil {
			return math.Trunc(time.Until(l.NotAfter).Seconds())
		}
		return math.Inf(1)
	}))
}
