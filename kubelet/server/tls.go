package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"k8s.io/client-go/util/cert"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/klog/v2"
)

// tlsConfig is the server's side of every connection. Client certificates are asked for and not looked at here:
// a wrong one gets an answer that says so.
//
// Upstream: cmd/kubelet/app/server.go InitializeTLS
func (s *Server) tlsConfig() (*tls.Config, error) {
	get, err := s.certificates()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, GetCertificate: get, ClientAuth: tls.RequestClientCert, NextProtos: []string{"http/1.1"},
	}
	if s.settings.TLSMinVersion == "VersionTLS13" {
		config.MinVersion = tls.VersionTLS13
	}
	if config.CipherSuites, err = cliflag.TLSCipherSuites(s.settings.TLSCipherSuites); err != nil {
		return nil, fmt.Errorf("tlsCipherSuites: %w", err)
	}
	if len(config.CipherSuites) == 0 {
		for _, suite := range tls.CipherSuites() {
			if modernSuite(suite.Name) {
				config.CipherSuites = append(config.CipherSuites, suite.ID)
			}
		}
	}
	for _, curve := range s.settings.TLSCurvePreferences {
		config.CurvePreferences = append(config.CurvePreferences, tls.CurveID(curve))
	}
	return config, nil
}

// modernSuite tells the suites that authenticate what they encrypt from those that do one after the other, which Go
// still takes by default and the CIS benchmark does not.
func modernSuite(suite string) bool {
	return strings.Contains(suite, "_GCM_") || strings.Contains(suite, "_POLY1305_")
}

// certificates returns where the serving certificate comes from: the caller, files that may change, or a certificate
// that the server makes for itself.
func (s *Server) certificates() (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if s.options.GetCertificate != nil {
		return s.options.GetCertificate, nil
	}
	certFile, keyFile := s.settings.TLSCertFile, s.settings.TLSPrivateKeyFile
	follow := func() {}
	if certFile == "" {
		certFile, keyFile = filepath.Join(s.settings.CertDir, "kubelet.crt"), filepath.Join(s.settings.CertDir, "kubelet.key")
		signed := &selfSignedCertificate{certFile: certFile, keyFile: keyFile, hosts: func() []string {
			return append([]string{s.settings.NodeName, "localhost"}, s.options.Addresses()...)
		}}
		if err := signed.make(); err != nil {
			return nil, fmt.Errorf("make a serving certificate (or set tlsCertFile and tlsPrivateKeyFile): %w", err)
		}
		follow = signed.follow
	}
	pair := newReloaded(parsePair, certFile, keyFile)
	if _, err := pair.get(); err != nil {
		return nil, fmt.Errorf("tlsCertFile, tlsPrivateKeyFile: %w", err)
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		follow()
		return pair.get()
	}, nil
}

// selfSignedCertificate is one that the server signs itself, for the hosts that it is now.
type selfSignedCertificate struct {
	certFile, keyFile string
	hosts             func() []string

	mu      sync.Mutex
	madeFor []string // the hosts that it was last made for
}

func (s *selfSignedCertificate) make() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	hosts := s.hosts()
	if slices.Equal(hosts, s.madeFor) {
		return nil
	}
	s.madeFor = hosts
	return selfSigned(hosts, s.certFile, s.keyFile)
}

// follow makes another one when the node has other addresses. The last one serves on if that fails.
func (s *selfSignedCertificate) follow() {
	if err := s.make(); err != nil {
		klog.Background().Error(err, "Making a serving certificate for the node's new addresses failed", "file", s.certFile)
	}
}

func parsePair(files [][]byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(files[0], files[1])
	return &pair, err
}

// selfSigned makes a certificate for the names and addresses and its key, unless there is one that still is good for them. One
// that an administrator has put there stays whatever it is good for.
func selfSigned(hosts []string, certFile, keyFile string) error {
	if pair, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil {
		wrong := func(host string) bool { return pair.Leaf.VerifyHostname(host) != nil }
		selfMade := strings.Contains(pair.Leaf.Issuer.CommonName, "-ca@") // as GenerateSelfSignedCertKey names it
		if !selfMade || !slices.ContainsFunc(hosts, wrong) && time.Until(pair.Leaf.NotAfter) > 24*time.Hour {
			return os.Chmod(keyFile, 0o600)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		klog.Background().Info("The serving certificate cannot be used, making another", "file", certFile, "err", err)
	}
	ips, names := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, []string{}
	for _, host := range hosts[1:] {
		if ip := net.ParseIP(host); ip != nil {
			ips = append(ips, ip)
		} else {
			names = append(names, host)
		}
	}
	certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey(hosts[0], ips, names)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(keyFile), 0o700); err != nil {
		return err
	}
	return errors.Join(writePrivate(keyFile, keyPEM), writePrivate(certFile, certPEM))
}

// writePrivate puts a whole new file in the place of the old, for the owner's eyes only.
func writePrivate(path string, data []byte) error {
	return renameio.WriteFile(path, data, 0o600, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(0o600))
}

const maxCertificateFile = 1 << 20
