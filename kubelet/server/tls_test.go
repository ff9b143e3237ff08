package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// TestServingCertificate: its own where none is given, private and kept; given ones are read again when they change.
func TestServingCertificate(t *testing.T) {
	f := newFixture(t, nil, func(o *Options) {
		o.GetCertificate, o.Addresses = nil, func() []string { return []string{"10.1.2.3", "fd00::1"} }
	})
	own := f.served(t)
	for _, host := range []string{"node", "localhost", "127.0.0.1", "10.1.2.3", "fd00::1"} {
		if err := own.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"kubelet.key", "kubelet.crt"} {
		if info, err := os.Stat(filepath.Join(f.dir, "pki", name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	get, err := f.certificates()
	must(t, err)
	if again, err := get(nil); err != nil || !again.Leaf.Equal(own) {
		t.Errorf("a restart made another certificate: %v", err)
	}
	f.options.Addresses = func() []string { return []string{"10.1.2.4"} }
	if again, err := get(nil); err != nil || again.Leaf.Equal(own) || again.Leaf.VerifyHostname("10.1.2.4") != nil {
		t.Errorf("the certificate does not follow the node's address: %v", err)
	}
	own = f.served(t)
	writeFile(t, filepath.Join(f.dir, "pki", "kubelet.crt"), "junk")
	if conn := f.served(t); !conn.Equal(own) {
		t.Error("a broken file took the certificate away")
	}

	dir, a := t.TempDir(), newAuthority(t)
	writePair(t, dir, "tls", a)
	g := newFixture(t, map[string]any{"tlsCertFile": dir + "/tls.crt", "tlsPrivateKeyFile": dir + "/tls.key", "tlsMinVersion": "VersionTLS13"}, func(o *Options) { o.GetCertificate = nil })
	before := g.served(t)
	writePair(t, dir, "tls", a)
	if after := g.served(t); after.Equal(before) || after.CheckSignatureFrom(a.cert) != nil {
		t.Error("the changed certificate is not served")
	}
	if _, err := tls.Dial("tcp", g.Addr(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil { //nolint:gosec // it must fail
		t.Error("TLS 1.2 is spoken where 1.3 is the least")
	}
	if _, err := tls.Dial("tcp", f.Addr(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil { //nolint:gosec // it must fail
		t.Error("TLS 1.1 is spoken")
	}
}

// served is the certificate that a client gets to see.
func (f *fixture) served(t *testing.T) *x509.Certificate {
	t.Helper()
	conn, err := tls.Dial("tcp", f.Addr(), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is the caller's to look at
	must(t, err)
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// writePair puts a certificate that the authority signs, and its key, into NAME.crt and NAME.key.
func writePair(t *testing.T, dir, name string, a *authority) *tls.Certificate {
	t.Helper()
	c := a.issue(t, pkix.Name{CommonName: "system:node:node"})
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	must(t, err)
	writeFile(t, filepath.Join(dir, name+".crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})))
	writeFile(t, filepath.Join(dir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	return c
}

// TestPlacedCertificate: an administrator's certificate where the server's own would be, in --cert-dir, is served and stays,
// whatever names are in it.
func TestPlacedCertificate(t *testing.T) {
	dir := t.TempDir()
	placed := writePair(t, dir, "kubelet", newAuthority(t))
	before, err := os.ReadFile(filepath.Join(dir, "kubelet.key"))
	must(t, err)
	f := newFixture(t, nil, func(o *Options) {
		o.GetCertificate, o.Addresses = nil, func() []string { return []string{"10.1.2.3"} }
		o.Settings.CertDir = dir
	})
	if got := f.served(t); !got.Equal(placed.Leaf) {
		t.Errorf("%v of %v is served", got.Subject, got.Issuer)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "kubelet.key")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key is another: %v", err)
	}
}

// TestClientAuthorityChanges: a new authority counts at once, and a broken file does not open or close the door.
func TestClientAuthorityChanges(t *testing.T) {
	f := newFixture(t, nil, nil)
	old, next := f.asRoot(t), newAuthority(t)
	fresh := f.client(t, next.issue(t, pkix.Name{CommonName: "root"}))
	for _, step := range []struct {
		file     string
		old, new int
	}{
		{string(f.ca.pem), 200, 401}, {string(f.ca.pem) + string(next.pem), 200, 200}, {string(next.pem), 401, 200}, {"junk", 401, 200},
	} {
		writeFile(t, filepath.Join(f.dir, "ca.crt"), step.file)
		for client, want := range map[*http.Client]int{old: step.old, fresh: step.new} {
			if code, _ := f.do(t, client, http.MethodGet, "/pods"); code != want {
				t.Errorf("file %.40q: %d, want %d", step.file, code, want)
			}
		}
	}
}
