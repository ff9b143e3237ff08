package stack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"time"
)

// KubectlCommand is Kubectl for a caller that has an input for it or wants its streams and exit code.
func (s *Stack) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	all := append([]string{"--net=" + s.NetnsPath(), s.Program("kubectl"), "--kubeconfig=" + s.AdminKubeconfig}, args...)
	return exec.CommandContext(ctx, "nsenter", all...)
}

// NodeKubeconfigFor writes a kubeconfig with a certificate of the node that is valid between two times.
func (s *Stack) NodeKubeconfigFor(name string, from, until time.Time) (string, error) {
	pair, err := s.ca.issueFor(from, until, name, pkix.Name{CommonName: "system:node:" + s.NodeName, Organization: []string{"system:nodes"}})
	if err != nil {
		return "", err
	}
	return s.ca.writeKubeconfig(name, fmt.Sprintf("client-certificate: %s, client-key: %s", pair.Cert, pair.Key))
}

// TokenKubeconfig writes a kubeconfig with a bearer token.
func (s *Stack) TokenKubeconfig(name, token string) (string, error) {
	return s.ca.writeKubeconfig(name, "token: "+token)
}

// KubeletURL is where the node's server answers.
func (s *Stack) KubeletURL() string { return "https://" + NodeIP + ":10250" }

// KubeletClient makes a client of the node's server inside the stack's network, for a user whom the stack's authority
// vouches for. Without a name it has no certificate.
func (s *Stack) KubeletClient(name string, groups ...string) (*http.Client, error) {
	if name == "" {
		return s.kubeletClient(nil)
	}
	pair, err := s.ca.issue("client-"+name, pkix.Name{CommonName: name, Organization: groups})
	if err != nil {
		return nil, err
	}
	certificate, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("read client certificate: %w", err)
	}
	return s.kubeletClient(&certificate)
}

// ImpostorClient makes a client whose certificate claims the name and the groups and comes from another authority.
func (s *Stack) ImpostorClient(name string, groups ...string) (*http.Client, error) {
	dir, err := os.MkdirTemp(s.Dir, "impostor-")
	if err != nil {
		return nil, err
	}
	other, err := newAuthority(dir)
	if err != nil {
		return nil, err
	}
	pair, err := other.issue("client", pkix.Name{CommonName: name, Organization: groups})
	if err != nil {
		return nil, err
	}
	certificate, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("read client certificate: %w", err)
	}
	return s.kubeletClient(&certificate)
}

func (s *Stack) kubeletClient(certificate *tls.Certificate) (*http.Client, error) {
	data, err := os.ReadFile(s.ca.path())
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	config.RootCAs.AppendCertsFromPEM(data)
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: s.ns.dialContext, TLSClientConfig: config, DisableKeepAlives: true,
	}}, nil
}
