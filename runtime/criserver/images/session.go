package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/bounded"
)

// session is one repository at one endpoint, with the credentials of one pull.
type session struct {
	repository name.Repository
	transport  http.RoundTripper // adds the credentials, for this registry only
	limits     Limits
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
	return &session{repository, authorized, s.options.Limits}, nil
}

// top reads the manifest or index that a reference means.
func (s *session) top(ctx context.Context, named reference.Named) (*remote.Descriptor, error) {
	if n, ok := named.(reference.Digested); ok {
		return s.get(ctx, s.repository.Digest(n.Digest().String()))
	}
	return s.get(ctx, s.repository.Tag(named.(reference.Tagged).Tag())) // see parseReference
}

func (s *session) get(ctx context.Context, ref name.Reference) (*remote.Descriptor, error) {
	d, err := remote.Get(ref, remote.WithContext(ctx), remote.WithTransport(s.transport))
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", ref.Identifier(), classify(err))
	}
	return d, nil
}

// manifest implements source.
func (s *session) manifest(ctx context.Context, digest v1.Hash) ([]byte, error) {
	d, err := s.get(ctx, s.repository.Digest(digest.String()))
	if err != nil {
		return nil, err
	}
	return d.Manifest, nil
}

// config implements source.
func (s *session) config(ctx context.Context, want v1.Descriptor) ([]byte, error) {
	body, _, err := s.blob(ctx, want, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return bounded.ReadAll(body, s.limits.ConfigBytes)
}

// blob asks for a blob from an offset on, and tells where the answer begins: at 0 if the registry does not know ranges, or
// refuses this one.
func (s *session) blob(ctx context.Context, want v1.Descriptor, offset int64) (body io.ReadCloser, from int64, err error) {
	// The transport corrects the scheme.
	address := fmt.Sprintf("%s://%s/v2/%s/blobs/%s", s.repository.Scheme(), s.repository.RegistryStr(), s.repository.RepositoryStr(), want.Digest)
	request, err := http.NewRequestWithContext(context.WithValue(ctx, blobKey{}, true), http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, err
	}
	request.Header.Set("Accept-Encoding", "identity") // the digest is of the content as it is
	if offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, want.Size-1))
	}
	response, err := (&http.Client{Transport: s.transport}).Do(request)
	if err != nil {
		if failed, ok := errors.AsType[*url.Error](err); ok { // where it was redirected to may be signed in the query
			failed.URL, _, _ = strings.Cut(failed.URL, "?")
		}
		return nil, 0, cmp.Or(context.Cause(ctx), err)
	}
	if response.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0 {
		response.Body.Close()
		return s.blob(ctx, want, 0)
	}
	err = transport.CheckError(response, http.StatusOK, http.StatusPartialContent)
	if err == nil && response.StatusCode == http.StatusPartialContent {
		sent := response.Header.Get("Content-Range")
		if _, failed := fmt.Sscanf(sent, "bytes %d-", &from); failed != nil || from != offset {
			err = fmt.Errorf("the registry sent the range %q where bytes from %d were asked for", sent, offset)
		}
	}
	if err != nil {
		response.Body.Close()
		return nil, 0, classify(err)
	}
	return response.Body, from, nil
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

// newTransport waits for bodies as long as bytes come (see download.go), but not for servers that say nothing at all.
func newTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 30 * time.Second
	t.MaxConnsPerHost = 16
	t.MaxResponseHeaderBytes = 256 << 10
	return t
}

// guard stands between go-containerregistry and the network: it sends nothing in clear text unless that was asked for,
// follows no redirect into this machine's own network, and cuts off answers that should be small.
type guard struct {
	inner    http.RoundTripper
	insecure bool
	limit    int64
	tokens   atomic.Pointer[url.URL] // where requests for tokenPath go
}

// blobKey marks the context of requests whose answer the caller bounds itself.
type blobKey struct{}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	if server := g.tokens.Load(); server != nil && request.URL.Path == tokenPath {
		query := request.URL.RawQuery
		request = request.Clone(request.Context())
		request.Host, request.URL = server.Host, &url.URL{Scheme: server.Scheme, Host: server.Host, Path: server.Path, RawQuery: query}
	}
	if request.URL.Scheme != "https" && !g.insecure && !addressOf(request.URL.Hostname()).IsLoopback() {
		return nil, fmt.Errorf("%s does not answer by HTTPS, and is not configured as insecure", request.URL.Host)
	}
	if err := checkRedirect(request); err != nil {
		return nil, err
	}
	response, err := g.inner.RoundTrip(request)
	if err == nil && response.StatusCode == http.StatusUnauthorized {
		g.replaceRealm(response, request.URL)
	}
	if err == nil && request.Context().Value(blobKey{}) == nil {
		response.Body = struct {
			io.Reader
			io.Closer
		}{bounded.NewReader(response.Body, g.limit), response.Body}
	}
	return response, err
}

// tokenPath stands for a token server at a private address.
const tokenPath = "/token-server-of-this-registry"

var realmPattern = regexp.MustCompile(`realm="([^"]*)"`)

// replaceRealm makes a token server at another port of the registry's own private address, as where GitLab is reached by its
// address, a path of the registry: go-containerregistry takes all token servers at private addresses for attacks.
func (g *guard) replaceRealm(response *http.Response, registry *url.URL) {
	challenges := response.Header["Www-Authenticate"]
	for i, challenge := range challenges {
		realm := realmPattern.FindStringSubmatch(challenge)
		if realm == nil {
			continue
		}
		server, err := url.Parse(realm[1])
		if err != nil || server.Host == registry.Host || server.Hostname() != registry.Hostname() || !isPrivate(server.Hostname()) {
			continue
		}
		g.tokens.Store(server)
		replaced := url.URL{Scheme: registry.Scheme, Host: registry.Host, Path: tokenPath, RawQuery: server.RawQuery}
		challenges[i] = strings.Replace(challenge, realm[1], replaced.String(), 1)
	}
}

// checkRedirect keeps a public registry from making this machine ask for addresses of its own network, such as the
// metadata service of a cloud.
func checkRedirect(request *http.Request) error {
	first := request
	for first.Response != nil { // which sent here
		first = first.Response.Request
	}
	from, to := first.URL.Hostname(), request.URL.Hostname()
	if from != to && isPrivate(to) && !isPrivate(from) {
		return fmt.Errorf("%s redirects to the private address %s", first.URL.Host, request.URL.Host)
	}
	return nil
}

// addressOf tells what a host is without asking anyone: nothing is known of a name.
func addressOf(host string) netip.Addr {
	if host == "localhost" {
		return netip.IPv6Loopback()
	}
	address, _ := netip.ParseAddr(host)
	return address.Unmap()
}

func isPrivate(host string) bool {
	a := addressOf(host)
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified()
}
