package identity

import (
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"minikubelet/kubelet/client"
)

func clientOf(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	c, err := client.New(&rest.Config{Host: serverOf(t, h).URL})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestServingTemplate(t *testing.T) {
	address := func(kind corev1.NodeAddressType, text string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: kind, Address: text}
	}
	for name, test := range map[string]struct {
		addresses  []corev1.NodeAddress
		names, ips []string
	}{
		"nothing":  {nil, nil, nil},
		"no IP":    {[]corev1.NodeAddress{address(corev1.NodeHostName, "host")}, nil, nil},
		"all":      {[]corev1.NodeAddress{address(corev1.NodeInternalIP, "10.0.0.2"), address(corev1.NodeExternalIP, "10.0.0.1"), address(corev1.NodeHostName, "host"), address(corev1.NodeInternalDNS, "a"), address(corev1.NodeExternalDNS, "")}, []string{"a", "host"}, []string{"10.0.0.1", "10.0.0.2"}},
		"twice":    {[]corev1.NodeAddress{address(corev1.NodeInternalIP, "fd00::1"), address(corev1.NodeHostName, "fd00:0::1")}, nil, []string{"fd00::1"}},
		"garbage":  {[]corev1.NodeAddress{address(corev1.NodeInternalIP, "x"), address(corev1.NodeExternalIP, "10.0.0.1")}, nil, []string{"10.0.0.1"}},
		"other":    {[]corev1.NodeAddress{address("Custom", "10.0.0.9"), address(corev1.NodeInternalIP, "10.0.0.1")}, nil, []string{"10.0.0.1"}},
		"IPv4 + 6": {[]corev1.NodeAddress{address(corev1.NodeInternalIP, "10.0.0.1"), address(corev1.NodeInternalIP, "fd00::1")}, nil, []string{"10.0.0.1", "fd00::1"}},
	} {
		got := servingTemplate("n", test.addresses)
		if test.ips == nil {
			if got != nil {
				t.Errorf("%s: %+v, want none", name, got)
			}
			continue
		}
		var ips []string
		for _, ip := range got.IPAddresses {
			ips = append(ips, ip.String())
		}
		if got.Subject.CommonName != "system:node:n" || !slices.Equal(got.Subject.Organization, []string{"system:nodes"}) || !slices.Equal(got.DNSNames, test.names) || !slices.Equal(ips, test.ips) {
			t.Errorf("%s: subject %v, names %v, IPs %v", name, got.Subject, got.DNSNames, ips)
		}
	}
}

func serving(t *testing.T, o ServingOptions) *tls.Certificate {
	t.Helper()
	get, _, err := Serving(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := get(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSelfSigned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	registry := prometheus.NewRegistry()
	first := serving(t, ServingOptions{NodeName: "n", CertDir: dir, Hostname: "host", IPs: []net.IP{net.IPv4(10, 0, 0, 1)}, Registerer: registry})
	private(t, filepath.Join(dir, "kubelet.key"), filepath.Join(dir, "kubelet.crt"))
	for _, name := range []string{"host", "10.0.0.1"} {
		if err := first.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if second := serving(t, ServingOptions{NodeName: "n", CertDir: dir}); !second.Leaf.Equal(first.Leaf) {
		t.Error("a restart makes another certificate")
	}
	if n, err := testutil.GatherAndCount(registry, "kubelet_certificate_manager_server_ttl_seconds"); n != 1 || err != nil {
		t.Errorf("%d metrics, %v", n, err)
	}
	a := newAuthority(t)
	cert, key := a.issue("n", time.Now().Add(-time.Hour))
	write(t, filepath.Join(dir, "kubelet.crt"), cert)
	write(t, filepath.Join(dir, "kubelet.key"), key)
	if third := serving(t, ServingOptions{NodeName: "n", CertDir: dir}); time.Now().After(third.Leaf.NotAfter) {
		t.Error("an expired certificate is served")
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	p := &pair{certFile: filepath.Join(dir, "c"), keyFile: filepath.Join(dir, "k")}
	if _, _, err := Serving(t.Context(), ServingOptions{CertFile: p.certFile, KeyFile: p.keyFile}); err == nil {
		t.Error("there is a certificate without files")
	}
	if _, _, err := Serving(t.Context(), ServingOptions{CertFile: p.certFile}); err == nil || !strings.Contains(err.Error(), "tlsPrivateKeyFile") {
		t.Errorf("without a key: %v", err)
	}
	a := newAuthority(t)
	put := func(cert, key []byte) {
		if cert != nil {
			write(t, p.certFile, cert)
		}
		if key != nil {
			write(t, p.keyFile, key)
		}
	}
	now := time.Now()
	serial := func(after time.Duration) int64 {
		t.Helper()
		c, err := p.get(now.Add(after))
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.SerialNumber.Int64()
	}
	put(a.issue("n", time.Now().Add(time.Hour)))
	if got := serial(0); got != 2 {
		t.Errorf("serial %d", got)
	}
	cert, key := a.issue("n", time.Now().Add(time.Hour))
	put(append(cert, '\n'), nil) // its size differs, whatever the clock says; the key is still the old one
	if got := serial(2 * pairAge); got != 2 {
		t.Errorf("between the two writes: serial %d", got)
	}
	put(nil, append(key, '\n'))
	if got := serial(2*pairAge + time.Millisecond); got != 2 {
		t.Errorf("the files were read again at once: serial %d", got)
	}
	if got := serial(4 * pairAge); got != 3 {
		t.Errorf("after both writes: serial %d", got)
	}
	if err := os.Remove(p.certFile); err != nil {
		t.Fatal(err)
	}
	if got := serial(6 * pairAge); got != 3 {
		t.Errorf("after the file went: serial %d", got)
	}
}

// TestNoCertificateYet: until the request has been approved handshakes fail, and say why.
func TestNoCertificateYet(t *testing.T) {
	get, _, err := Serving(t.Context(), ServingOptions{
		NodeName: "n", CertDir: t.TempDir(), Bootstrap: true, Requests: fake.NewClientset().CertificatesV1().CertificateSigningRequests(), Addresses: func() []corev1.NodeAddress { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := get(nil); err == nil || c != nil {
		t.Errorf("GetCertificate = %v, %v", c, err)
	}
}
