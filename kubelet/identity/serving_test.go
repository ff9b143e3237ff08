package identity

import (
	"net/http"
	"os"
	"slices"
	"testing"

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

// TestNoCertificateYet: until the request has been approved handshakes fail, and say why.
func TestNoCertificateYet(t *testing.T) {
	get, _, err := Serving(t.Context(), ServingOptions{
		NodeName: "n", CertDir: t.TempDir(), Requests: fake.NewClientset().CertificatesV1().CertificateSigningRequests(), Addresses: func() []corev1.NodeAddress { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := get(nil); err == nil || c != nil {
		t.Errorf("GetCertificate = %v, %v", c, err)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
