package identity

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestUsable(t *testing.T) {
	a := newAuthority(t)
	s := a.server(func(http.ResponseWriter, *http.Request) {})
	good, goodKey := a.issue("n", time.Now().Add(time.Hour))
	old, oldKey := a.issue("n", time.Now().Add(-time.Minute))
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		path string
		ok   bool
		why  string
	}{
		"valid":          {kubeconfig(t, s, embedded(good, goodKey)), true, ""},
		"expired":        {kubeconfig(t, s, embedded(old, oldKey)), false, "expired at"},
		"another's key":  {kubeconfig(t, s, embedded(good, oldKey)), false, "read the certificates"},
		"no certificate": {kubeconfig(t, s, "{token: x}"), false, "read the client certificate"},
		"missing file":   {kubeconfig(t, s, "{client-certificate: /none, client-key: /none}"), false, "/none"},
		"no kubeconfig":  {"/none", false, "no such file"},
		"garbage":        {garbage, false, "read kubeconfig"},
	} {
		ok, why, err := usable(test.path, time.Now())
		if err != nil || ok != test.ok || !ok && !strings.Contains(why.Error(), test.why) {
			t.Errorf("%s: usable = %v, %v, %v; want %v, %s", name, ok, why, err, test.ok, test.why)
		}
	}
}

// TestWriteKubeconfig: the cluster is all that the bootstrap kubeconfig says of it, the user is the certificate alone.
func TestWriteKubeconfig(t *testing.T) {
	dir := t.TempDir()
	path, current := filepath.Join(dir, "new", "kubeconfig"), filepath.Join(dir, "kubelet-client-current.pem")
	write(t, current, nil)
	write(t, filepath.Join(dir, "ca.crt"), []byte("ca"))
	bootstrap := filepath.Join(dir, "bootstrap")
	write(t, bootstrap, []byte(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: o, context: {cluster: o, user: u}}, {name: c, context: {cluster: s, user: u}}],
clusters: [{name: o, cluster: {server: "https://other"}}, {name: s, cluster: {server: "https://10.0.0.1:6443", certificate-authority: ca.crt, tls-server-name: api,
proxy-url: "http://proxy:3128", disable-compression: true}}], users: [{name: u, user: {token: secret}}]}`))
	for range 2 { // the second replaces the first
		if err := writeKubeconfig(path, bootstrap, current); err != nil {
			t.Fatal(err)
		}
	}
	private(t, path)
	got, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Host != "https://10.0.0.1:6443" || got.CAFile != filepath.Join(dir, "ca.crt") || got.ServerName != "api" || got.CertFile != current || got.KeyFile != got.CertFile || got.BearerToken != "" || !got.DisableCompression {
		t.Errorf("the kubeconfig reads as %+v", got)
	}
	if got.Proxy == nil {
		t.Error("the proxy is not kept")
	} else if proxy, err := got.Proxy(nil); err != nil || proxy.String() != "http://proxy:3128" {
		t.Errorf("the proxy is %v, %v", proxy, err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the kubeconfig there are %v, %v", entries, err)
	}
}

func TestBootstrapKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pki", keyFile)
	first, signer, err := bootstrapKey(path)
	if err != nil {
		t.Fatal(err)
	}
	private(t, path)
	again, _, err := bootstrapKey(path)
	if err != nil || string(again) != string(first) {
		t.Errorf("the key of an earlier attempt is not used again: %v", err)
	}
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, otherSigner, err := bootstrapKey(path)
	if err != nil || string(other) == string(first) {
		t.Errorf("what is no key is not replaced: %v", err)
	}
	names := map[string]bool{}
	for range 2 {
		for _, s := range []interface{ Name() (string, error) }{named{signer, "n"}, named{otherSigner, "n"}, named{signer, "m"}} {
			name, err := s.Name()
			if err != nil || !strings.HasPrefix(name, "node-csr-") || len(name) > 253 {
				t.Errorf("name %q, %v", name, err)
			}
			names[name] = true
		}
	}
	if len(names) != 3 {
		t.Errorf("two keys and two nodes have the names %v", names)
	}
}
