package images

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/bounded"
)

// endpoint is a server to pull from: a registry, or a mirror of it.
type endpoint struct {
	host     string
	insecure bool
	mirror   bool
}

// endpoints returns where the images of a registry are, in the order to try.
func (s *Store) endpoints(host string) []endpoint {
	registry := s.registry(host)
	var all []endpoint
	for _, mirror := range registry.Mirrors {
		e, err := s.mirror(mirror)
		if err == nil && e.host != host { // checked by Open
			all = append(all, e)
		}
	}
	return append(all, endpoint{host: host, insecure: registry.Insecure})
}

func (s *Store) registry(host string) Registry {
	if registry, ok := s.options.Registries[host]; ok {
		return registry
	}
	return s.options.Registries["*"]
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
	insecure := scheme == "http" || scheme == "" && s.registry(host).Insecure
	return endpoint{host: host, insecure: insecure, mirror: true}, nil
}

func (s *Store) checkRegistries() error {
	for host, registry := range s.options.Registries {
		if host != "*" {
			if _, err := name.NewRegistry(host, name.StrictValidation); err != nil {
				return fmt.Errorf("registry %q is not host[:port]: %w", host, err)
			}
		}
		for _, mirror := range registry.Mirrors {
			if _, err := s.mirror(mirror); err != nil {
				return fmt.Errorf("registry %q: %w", host, err)
			}
		}
	}
	return nil
}

// newTransport waits for bodies as long as bytes come (see blobs.go), but not for servers that say nothing at all.
func newTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 30 * time.Second
	t.MaxConnsPerHost = 16
	t.MaxResponseHeaderBytes = 256 << 10
	return t
}

// session is one repository at one endpoint, with the credentials of one pull.
type session struct {
	repository name.Repository
	transport  http.RoundTripper // adds the credentials, for this registry only
	client     *http.Client      // follows redirects, as blobs need
}

// dial logs in at the endpoint.
func (s *Store) dial(ctx context.Context, e endpoint, named reference.Named, auth *runtimeapi.AuthConfig) (*session, error) {
	var options []name.Option
	if e.insecure {
		options = append(options, name.Insecure)
	}
	registry, err := name.NewRegistry(e.host, options...)
	if err != nil {
		return nil, err
	}
	credentials, err := credentialsFor(e, auth)
	if err != nil {
		return nil, fmt.Errorf("read the credentials: %w", err)
	}
	repository := registry.Repo(reference.Path(named))
	guarded := &guard{inner: s.http, insecure: e.insecure, limit: s.options.Limits.ManifestBytes}
	retrying := transport.NewRetry(guarded, transport.WithRetryStatusCodes(http.StatusBadGateway, http.StatusServiceUnavailable,
		http.StatusGatewayTimeout))
	authorized, err := transport.NewWithContext(ctx, registry, credentials, retrying, []string{repository.Scope(transport.PullScope)})
	if err != nil {
		return nil, classify(err)
	}
	return &session{repository: repository, transport: authorized, client: &http.Client{Transport: authorized, CheckRedirect: checkRedirect}}, nil
}

// url is the address of a blob; the transport corrects the scheme.
func (s *session) url(digest string) string {
	return fmt.Sprintf("%s://%s/v2/%s/blobs/%s", s.repository.Scheme(), s.repository.RegistryStr(), s.repository.RepositoryStr(), digest)
}

// guard stands between go-containerregistry and the network: it sends nothing in clear text unless that was asked for,
// and cuts off answers that should be small.
type guard struct {
	inner    http.RoundTripper
	insecure bool
	limit    int64
}

// blobKey marks the context of requests whose answer the caller bounds itself.
type blobKey struct{}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme != "https" && !g.insecure && !isLoopback(request.URL.Hostname()) {
		return nil, fmt.Errorf("%s does not answer by HTTPS, and is not configured as insecure", request.URL.Host)
	}
	response, err := g.inner.RoundTrip(request)
	if err == nil && request.Context().Value(blobKey{}) == nil {
		response.Body = struct {
			io.Reader
			io.Closer
		}{bounded.NewReader(response.Body, g.limit), response.Body}
	}
	return response, err
}

// isLoopback tells whether a host is this machine without asking anyone.
func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}

// checkRedirect keeps a public registry from making this machine ask for addresses of its own network, such as the
// metadata service of a cloud.
func checkRedirect(request *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	first := via[0].URL
	if request.URL.Hostname() == first.Hostname() || isPrivate(first.Hostname()) {
		return nil
	}
	if isPrivate(request.URL.Hostname()) {
		return fmt.Errorf("%s redirects to the private address %s", first.Host, request.URL.Host)
	}
	return nil
}

func isPrivate(host string) bool {
	address, err := netip.ParseAddr(host)
	if err != nil {
		return host == "localhost"
	}
	address = address.Unmap()
	return address.IsPrivate() || address.IsLoopback() || address.IsLinkLocalUnicast() || address.IsUnspecified()
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

// dockerHub knows the names that registry has had.
func dockerHub(host string) string {
	if host == "docker.io" || host == "registry-1.docker.io" {
		return name.DefaultRegistry
	}
	return host
}

// classify turns a registry's answer into one of this package's errors.
func classify(err error) error {
	answer, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return err
	}
	switch answer.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	return err
}
