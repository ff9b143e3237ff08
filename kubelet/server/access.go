package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"

	"k8s.io/klog/v2"

	"minikubelet/kubelet/server/auth"
)

// prepareAuth works out who is let in. With an apiserver it is asked about tokens and access as the settings say.
// Without one every user of a client certificate may do everything, and without a client authority everybody on the
// loopback interface may: there is nobody else to ask.
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
	s.open = c.Standalone() && o.ClientCAs == nil
	if s.open {
		klog.Background().Info("WARNING: every program on this machine may use the kubelet's server on the loopback interface (no --kubeconfig, no authentication.x509.clientCAFile)")
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

// user is who sends the request.
func (s *Server) user(r *http.Request) (*auth.User, error) {
	if s.open {
		if err := fromHere(r); err != nil {
			return nil, err
		}
		return &auth.User{Name: "loopback"}, nil
	}
	return s.auth.Authenticate(r)
}

// fromHere refuses requests that come from elsewhere, or that a browser here was made to send by a page from elsewhere.
func fromHere(r *http.Request) error {
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
