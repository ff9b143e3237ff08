package stack

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// KeyPair names a certificate and its key on disk.
type KeyPair struct{ Cert, Key string }

// authority is the stack's own certificate authority.
type authority struct {
	dir    string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

// newAuthority makes a CA and writes ca.crt into dir.
func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate CA key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "minikubelet-ca"},
		NotBefore: longAgo(), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("create CA certificate: %w", err)
	}
	a := &authority{dir: dir, key: key, serial: 1}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return a, writePair(KeyPair{a.path(), filepath.Join(dir, "ca.key")}, der, key)
}

// longAgo is when certificates begin that must count for programs whose clock is an hour behind too.
func longAgo() time.Time { return time.Now().Add(-2 * time.Hour) }

func (a *authority) path() string { return filepath.Join(a.dir, "ca.crt") }

// issue signs a certificate of a day for both client and server use and writes
// it as NAME.crt and NAME.key.
func (a *authority) issue(name string, subject pkix.Name, hosts ...string) (KeyPair, error) {
	return a.issueFor(time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour), name, subject, hosts...)
}

func (a *authority) issueFor(from, until time.Time, name string, subject pkix.Name, hosts ...string) (KeyPair, error) {
	pair := KeyPair{filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair, fmt.Errorf("generate key of %s: %w", name, err)
	}
	a.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: subject, NotBefore: from, NotAfter: until,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return pair, fmt.Errorf("sign certificate of %s: %w", name, err)
	}
	return pair, writePair(pair, der, key)
}

func writePair(pair KeyPair, der []byte, key *ecdsa.PrivateKey) error {
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(pair.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return err
	}
	return os.WriteFile(pair.Key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600)
}

// kubeconfig issues a client certificate and writes NAME.kubeconfig with it.
func (a *authority) kubeconfig(name string, subject pkix.Name) (string, error) {
	pair, err := a.issue(name, subject)
	if err != nil {
		return "", err
	}
	return a.writeKubeconfig(name, fmt.Sprintf("client-certificate: %s, client-key: %s", pair.Cert, pair.Key))
}

// writeKubeconfig writes NAME.kubeconfig with a user's credentials, in YAML's flow form.
func (a *authority) writeKubeconfig(name, user string) (string, error) {
	return a.writeKubeconfigAt(NodeIP+":6443", name, user)
}

func (a *authority) writeKubeconfigAt(address, name, user string) (string, error) {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: stack
  cluster: {server: "https://%s", certificate-authority: %s}
users:
- name: %s
  user: {%s}
contexts:
- name: stack
  context: {cluster: stack, user: %s}
current-context: stack
`, address, a.path(), name, user, name)
	path := filepath.Join(a.dir, name+".kubeconfig")
	return path, os.WriteFile(path, []byte(text), 0o600)
}
