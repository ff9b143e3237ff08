package settings

import (
	"crypto/tls"
	"fmt"
	"net"
	"slices"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// server checks what the server on port is made from.
func (p *problems) server(c *kubeletconfig.KubeletConfiguration) {
	add := p.add
	add(net.ParseIP(c.Address) == nil, "address", c.Address, "must be an IP address")
	add(c.Port < 1 || c.Port > 65535, "port", c.Port, "must be between 1 and 65535")
	add(c.ReadOnlyPort < 0 || c.ReadOnlyPort > 65535, "readOnlyPort", c.ReadOnlyPort, "must be between 0 (off) and 65535")
	add(c.ReadOnlyPort != 0 && c.ReadOnlyPort == c.Port, "readOnlyPort", c.ReadOnlyPort, "must not be port")
	add((c.TLSCertFile == "") != (c.TLSPrivateKeyFile == ""), "tlsCertFile", c.TLSCertFile, "must be given together with tlsPrivateKeyFile")
	_, err := TLSVersion(c.TLSMinVersion)
	add(err != nil, "tlsMinVersion", c.TLSMinVersion, fmt.Sprint(err))
	_, err = TLSCipherSuites(c.TLSCipherSuites)
	add(err != nil, "tlsCipherSuites", c.TLSCipherSuites, fmt.Sprint(err))
	mode := string(c.Authorization.Mode)
	add(mode != "Webhook" && mode != "AlwaysAllow", "authorization.mode", mode, "must be Webhook or AlwaysAllow")
	for path, d := range map[string]int64{
		"authentication.webhook.cacheTTL":            int64(c.Authentication.Webhook.CacheTTL.Duration),
		"authorization.webhook.cacheAuthorizedTTL":   int64(c.Authorization.Webhook.CacheAuthorizedTTL.Duration),
		"authorization.webhook.cacheUnauthorizedTTL": int64(c.Authorization.Webhook.CacheUnauthorizedTTL.Duration),
		"streamingConnectionIdleTimeout":             int64(c.StreamingConnectionIdleTimeout.Duration),
	} {
		add(d < 0, path, d, "must not be negative")
	}
}

// TLSVersion returns the TLS version with that name, 1.2 for none.
//
// Upstream: staging/src/k8s.io/component-base/cli/flag/ciphersuites_flag.go TLSVersion
func TLSVersion(name string) (uint16, error) {
	switch name {
	case "", "VersionTLS12":
		return tls.VersionTLS12, nil
	case "VersionTLS13":
		return tls.VersionTLS13, nil
	case "VersionTLS10", "VersionTLS11":
		return 0, fmt.Errorf("%s: less than TLS 1.2 is not spoken", name)
	}
	return 0, fmt.Errorf("%q is not one of VersionTLS12, VersionTLS13", name)
}

// TLSCipherSuites returns the numbers of cipher suites of TLS 1.2, nil (which means Go's choice) for no names.
// Those that Go calls insecure are refused.
//
// Upstream: staging/src/k8s.io/component-base/cli/flag/ciphersuites_flag.go TLSCipherSuites
func TLSCipherSuites(names []string) ([]uint16, error) {
	var ids []uint16
	for _, name := range names {
		if i := slices.IndexFunc(tls.CipherSuites(), func(c *tls.CipherSuite) bool { return c.Name == name }); i >= 0 {
			ids = append(ids, tls.CipherSuites()[i].ID)
			continue
		}
		if slices.ContainsFunc(tls.InsecureCipherSuites(), func(c *tls.CipherSuite) bool { return c.Name == name }) {
			return nil, fmt.Errorf("%s is insecure", name)
		}
		return nil, fmt.Errorf("%q is not a cipher suite", name)
	}
	return ids, nil
}
