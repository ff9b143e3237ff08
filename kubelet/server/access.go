package server

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode"

	"k8s.io/klog/v2"

	"minikubelet/kubelet/server/auth"
)

// prepareAuth prepares authentication and authorization. With an apiserver the kubelet asks it about tokens and access, as the
// settings say. Without one every user of a client certificate may do everything. Without a client authority too, all who
// can read the token file may.
//
// Upstream: cmd/kubelet/app/auth.go BuildAuth
func (s *Server) prepareAuth() error {
	c := s.settings
	o := auth.Options{
		NodeName: c.NodeName, Anonymous: *c.Authentication.Anonymous.Enabled,
		TokenTTL:      c.Authentication.Webhook.CacheTTL.Duration,
		AuthorizedTTL: c.Authorization.Webhook.CacheAuthorizedTTL.Duration,
		RefusedTTL:    c.Authorization.Webhook.CacheUnauthorizedTTL.Duration,
		AlwaysAllow:   c.Standalone() || c.Authorization.Mode == "AlwaysAllow",
		Access:        s.options.Access,
	}
	if *c.Authentication.Webhook.Enabled {
		o.Tokens = s.options.Tokens
	}
	if file := c.Authentication.X509.ClientCAFile; file != "" {
		authorities := newReloaded(parseAuthorities, file)
		if _, err := authorities.get(); err != nil {
			return fmt.Errorf("authentication.x509.clientCAFile: %w", err)
		}
		o.ClientCAs = authorities.get
	}
	if c.Standalone() && o.ClientCAs == nil {
		file := filepath.Join(c.RootDir, tokenFile)
		if err := makeToken(file); err != nil {
			return fmt.Errorf("make a token for requests (or set authentication.x509.clientCAFile): %w", err)
		}
		s.token = newReloaded(parseToken, file)
		klog.Background().Info("Requests to the server need the bearer token in this file (no --kubeconfig, no authentication.x509.clientCAFile)", "file", file)
	}
	if o.AlwaysAllow && o.Anonymous && !c.Standalone() {
		klog.Background().Info("WARNING: anonymous requests may do everything (authentication.anonymous, authorization.mode)")
	}
	s.auth = auth.New(o)
	return nil
}

func parseAuthorities(files [][]byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(files[0]) {
		return nil, errors.New("no certificate in it")
	}
	return pool, nil
}

// Users of a server that knows its clients by a token only.
const (
	tokenUser = "token"
	localUser = "local" // without the token
)

// user is who sends the request.
func (s *Server) user(r *http.Request) (*auth.User, error) {
	if s.token == nil {
		return s.auth.Authenticate(r)
	}
	if err := fromThisMachine(r); err != nil {
		return nil, err
	}
	given := r.Header.Get("Authorization")
	if given == "" {
		return &auth.User{Name: localUser}, nil
	}
	token, err := s.token.get()
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(given), []byte("Bearer "+token)) != 1 {
		return nil, errors.New("not the bearer token of the token file")
	}
	return &auth.User{Name: tokenUser}, nil
}

// tokenFile is below the root directory.
const tokenFile = "server-token"

// leastToken is how long a token must be at least.
const leastToken = 32

// makeToken writes a random token to the file, unless there is one that no other user can have read or written.
func makeToken(file string) error {
	info, err := os.Lstat(file)
	if err == nil && info.Mode() == 0o600 && info.Sys().(*syscall.Stat_t).Uid == uint32(os.Geteuid()) {
		if data, err := os.ReadFile(file); err == nil && len(data) <= maxCertificateFile {
			if _, err := parseToken([][]byte{data}); err == nil {
				return nil
			}
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return writePrivate(file, []byte(rand.Text()+rand.Text()+"\n"))
}

func parseToken(files [][]byte) (string, error) {
	token := strings.TrimSpace(string(files[0]))
	if len(token) < leastToken || strings.ContainsFunc(token, unicode.IsSpace) {
		return "", fmt.Errorf("it does not hold a token of %d characters or more", leastToken)
	}
	return token, nil
}

// fromThisMachine refuses requests from other machines, and those that a page of another site makes a browser on this machine send.
func fromThisMachine(r *http.Request) error {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err != nil || !isLoopback(host) {
		return fmt.Errorf("%s is not on the loopback interface", r.RemoteAddr)
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	if !isLoopback(host) || r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
		return fmt.Errorf("host %q, origin %q: not from a program on this machine", r.Host, r.Header.Get("Origin"))
	}
	return nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

type userKey struct{}

func withUser(ctx context.Context, user *auth.User) context.Context {
	return context.WithValue(ctx, userKey{}, user)
}

func userOf(ctx context.Context) *auth.User {
	user, _ := ctx.Value(userKey{}).(*auth.User)
	if user == nil {
		return &auth.User{}
	}
	return user
}
