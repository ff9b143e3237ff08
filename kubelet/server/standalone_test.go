package server

import (
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/runtime/cri"
)

// TestStandalone: without an apiserver the loopback interface is all there is, the token file opens the server, and a
// browser is no program of this machine.
func TestStandalone(t *testing.T) {
	dir := t.TempDir()
	f := standalone(t, dir)
	file := filepath.Join(dir, "server-token")
	info, err := os.Lstat(file)
	must(t, err)
	token := strings.TrimSpace(readFile(t, file))
	if info.Mode() != 0o600 || len(token) < 32 {
		t.Errorf("the token file has mode %v and %d characters", info.Mode(), len(token))
	}
	client, bearer := f.client(t, nil), "Bearer "+token
	for _, r := range requests {
		if strings.Contains(r.path, "pprof/trace") || strings.Contains(r.path, "pprof/profile") {
			continue
		}
		health := strings.HasPrefix(r.path, "/healthz") && r.path != "/healthz/nothing"
		if code, body := f.do(t, client, r.method, r.path); (code == http.StatusOK) != health || !health && code != http.StatusUnauthorized {
			t.Errorf("%s %s without the token: %d %s", r.method, r.path, code, body)
		}
		for _, wrong := range []string{"Bearer " + token + "x", "Bearer", token, "Basic " + token, "Bearer " + token[:31]} {
			if code, _ := f.do(t, client, r.method, r.path, "Authorization", wrong); code != http.StatusUnauthorized {
				t.Errorf("%s %s with a wrong token: %d", r.method, r.path, code)
			}
		}
		if code, body := f.do(t, client, r.method, r.path, "Authorization", bearer); code == http.StatusUnauthorized || code == http.StatusForbidden {
			t.Errorf("%s %s with the token: %d %s", r.method, r.path, code, body)
		}
	}
	for header, value := range map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"} {
		if code, _ := f.do(t, client, http.MethodGet, "/pods", header, value, "Authorization", bearer); code != http.StatusUnauthorized {
			t.Errorf("%s: %d", header, code)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+f.Addr()+"/healthz", http.NoBody)
	must(t, err)
	r.Host = "evil.example"
	answer, err := client.Do(r)
	must(t, err)
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("another host's name: %d", answer.StatusCode)
	}
	if err := fromThisMachine(&http.Request{RemoteAddr: "10.0.0.1:1", Host: "localhost"}); err == nil {
		t.Error("a request from elsewhere is taken")
	}

	// A new token counts at once, and the next server takes it over; one that others may know it does not.
	next := strings.Repeat("n", 40)
	must(t, writePrivate(file, []byte(next+"\n")))
	for given, want := range map[string]int{bearer: http.StatusUnauthorized, "Bearer " + next: http.StatusOK} {
		if code, _ := f.do(t, client, http.MethodGet, "/pods", "Authorization", given); code != want {
			t.Errorf("%s after the change: %d", given, code)
		}
	}
	must(t, makeToken(file))
	if got := readFile(t, file); got != next+"\n" {
		t.Errorf("the token is %q", got)
	}
	for what, spoil := range map[string]func() error{
		"readable":  func() error { return os.Chmod(file, 0o644) },
		"short":     func() error { return os.WriteFile(file, []byte("abc"), 0o600) },
		"empty":     func() error { return os.Truncate(file, 0) },
		"elsewhere": func() error { return errors.Join(os.Remove(file), os.Symlink("/dev/zero", file)) },
	} {
		must(t, spoil(), makeToken(file))
		if got := readFile(t, file); got == next+"\n" || len(got) < 40 {
			t.Errorf("%s: the token is %q", what, got)
		}
		must(t, writePrivate(file, []byte(next+"\n")))
	}

	// With a client authority its certificates are asked for, and their users may do everything.
	g := newFixtureStandalone(t)
	if code, _ := g.do(t, g.client(t, nil), http.MethodGet, "/pods"); code != http.StatusUnauthorized {
		t.Errorf("with clientCAFile and without certificate: %d", code)
	}
	if code, _ := g.do(t, g.client(t, g.ca.issue(t, pkix.Name{CommonName: "me"})), http.MethodGet, "/pods"); code != http.StatusOK {
		t.Errorf("with clientCAFile and a certificate: %d", code)
	}
}

// standalone starts a server with neither apiserver nor client authority.
func standalone(t *testing.T, dir string) *fixture {
	t.Helper()
	config := map[string]any{"authentication": map[string]any{}}
	f := &fixture{dir: dir, settings: load(t, dir, config), runtime: &fakeRuntime{}, reviews: &reviews{}}
	if got := (&Server{settings: f.settings}).address(10250); got != "127.0.0.1:10250" {
		t.Errorf("it listens on %s", got)
	}
	f.settings.Address = "::"
	if got := (&Server{settings: f.settings}).address(10250); got != "[::1]:10250" {
		t.Errorf("it listens on %s", got)
	}
	f.settings.Address, f.settings.Port = "0.0.0.0", 0
	var err error
	f.Server, err = Listen(Options{Settings: f.settings, CRI: &cri.Client{Runtime: f.runtime}, Pods: func() []*corev1.Pod { return nil },
		Checks: []Check{{Name: "syncloop", Check: func() error { return nil }}},
	})
	must(t, err)
	done := make(chan struct{})
	go func() { f.Run(t.Context()); close(done) }()
	t.Cleanup(func() { <-done })
	return f
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

func newFixtureStandalone(t *testing.T) *fixture {
	return newFixture(t, nil, func(o *Options) {
		o.Settings.Kubeconfig = ""
		o.Tokens, o.Access = nil, nil
	})
}
