package images

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// endpoint is a server to pull from: a registry, or a mirror of it.
type endpoint struct {
	host     string
	insecure bool
	mirror   bool
}

// endpoints returns where the images of a registry are, in the order to try.
func (s *Store) endpoints(host string) []endpoint {
	mirrors := slices.DeleteFunc(slices.Clone(s.mirrors[s.configured(host)]), func(e endpoint) bool { return e.host == host })
	return append(mirrors, endpoint{host: host, insecure: s.options.Registries[s.configured(host)].Insecure})
}

// configured is the key in the configuration of what applies to a registry: its host, or that of all others.
func (s *Store) configured(host string) string {
	if _, ok := s.options.Registries[host]; ok {
		return host
	}
	return "*"
}

// readRegistries finds mistakes in the configuration at start rather than at the first pull.
func (s *Store) readRegistries() error {
	for host, registry := range s.options.Registries {
		if _, err := name.NewRegistry(host, name.StrictValidation); err != nil && host != "*" {
			return fmt.Errorf("registry %q is not host[:port]: %w", host, err)
		}
		for _, address := range registry.Mirrors {
			e, err := s.mirror(address)
			if err != nil {
				return fmt.Errorf("registry %q: %w", host, err)
			}
			s.mirrors[host] = append(s.mirrors[host], e)
		}
	}
	return nil
}

// mirror reads host[:port], http://host[:port] or https://host[:port].
func (s *Store) mirror(address string) (endpoint, error) {
	scheme, host, found := strings.Cut(address, "://")
	if !found {
		scheme, host = "", address
	}
	if scheme != "" && scheme != "http" && scheme != "https" {
		return endpoint{}, fmt.Errorf("mirror %q: neither http nor https", address)
	}
	host = strings.TrimSuffix(host, "/")
	if _, err := name.NewRegistry(host, name.StrictValidation); err != nil {
		return endpoint{}, fmt.Errorf("mirror %q is not host[:port]: %w", address, err)
	}
	insecure := scheme == "http" || scheme == "" && s.options.Registries[s.configured(host)].Insecure
	return endpoint{host: host, insecure: insecure, mirror: true}, nil
}

// credentialsFor gives the pull's credentials to the server they are for: the one they name, else the registry itself
// and never a mirror.
func credentialsFor(e endpoint, auth *runtimeapi.AuthConfig) (authn.Authenticator, error) {
	if auth == nil {
		return authn.Anonymous, nil
	}
	if server := auth.GetServerAddress(); server != "" {
		if !sameServer(server, e.host) {
			return authn.Anonymous, nil
		}
	} else if e.mirror {
		return authn.Anonymous, nil
	}
	config := authn.AuthConfig{Username: auth.GetUsername(), Password: auth.GetPassword(),
		IdentityToken: auth.GetIdentityToken(), RegistryToken: auth.GetRegistryToken()}
	if auth.GetAuth() != "" && config.Username == "" {
		var err error
		if config.Username, config.Password, err = decodeAuth(auth.GetAuth()); err != nil {
			return nil, err
		}
	}
	if config == (authn.AuthConfig{}) {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(config), nil
}

// decodeAuth reads base64 of user:password, as docker's config files have it. The error must not show it.
func decodeAuth(auth string) (user, password string, err error) {
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(auth))
	if err != nil {
		return "", "", errors.New("auth is not base64")
	}
	user, password, found := strings.Cut(string(decoded), ":")
	if !found || user == "" {
		return "", "", errors.New("auth is not user:password")
	}
	return user, strings.Trim(password, "\x00"), nil
}

// sameServer compares an address of docker's config file, perhaps a URL, with a registry's host.
func sameServer(address, host string) bool {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	matched, err := path.Match(dockerHub(u.Host), dockerHub(host)) // *.example.com is what the kubelet knows
	return err == nil && matched || u.Host == host
}

// dockerHub gives one name to the hosts that Docker Hub has had.
func dockerHub(host string) string {
	if host == "docker.io" || host == "registry-1.docker.io" {
		return name.DefaultRegistry
	}
	return host
}
