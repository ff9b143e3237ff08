package stack

import (
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// What a proxy before the apiserver and a test of what stays behind need to know of the stack.

// AuthorityPath is the file with the certificate of the stack's authority.
func (s *Stack) AuthorityPath() string { return s.ca.path() }

// ServingPair issues a certificate for a server at the node's address.
func (s *Stack) ServingPair(name string) (KeyPair, error) {
	return s.ca.issueFor(longAgo(), time.Now().Add(24*time.Hour), name, pkix.Name{CommonName: name}, NodeIP, "127.0.0.1")
}

// NodePair issues a client certificate of the node.
func (s *Stack) NodePair(name string) (KeyPair, error) {
	return s.ca.issue(name, pkix.Name{CommonName: "system:node:" + s.NodeName, Organization: []string{"system:nodes"}})
}

// NodeKubeconfigAt is NodeKubeconfig for an apiserver at another address of the node.
func (s *Stack) NodeKubeconfigAt(name, address string) (string, error) {
	pair, err := s.NodePair(name)
	if err != nil {
		return "", err
	}
	return s.ca.writeKubeconfigAt(address, name, fmt.Sprintf("client-certificate: %s, client-key: %s", pair.Cert, pair.Key))
}

// Addresses are those that the network plugin has given to sandboxes, from its files.
func (s *Stack) Addresses() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(s.Dir, "ipam", s.Name, "[0-9]*"))
	var addresses []string
	for _, file := range files {
		addresses = append(addresses, filepath.Base(file))
	}
	return addresses, err
}

// PodDirectories are the UIDs of pods that the kubelet has a directory of.
func (s *Stack) PodDirectories() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.RootDir(), "pods"))
	if os.IsNotExist(err) {
		return nil, nil
	}
	var uids []string
	for _, entry := range entries {
		uids = append(uids, entry.Name())
	}
	return uids, err
}

// RuntimeIsProgram tells whether the CRI server is a program of its own, so that something can stand before it.
func (s *Stack) RuntimeIsProgram() bool { return s.options.Runtime != Embedded }
