package images_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/images"
)

func TestPullChoosesThePlatform(t *testing.T) {
	registry := newServer(t)
	forPlatform := func(p string) mutate.IndexAddendum {
		platform, _ := v1.ParsePlatform(p)
		image := withConfig(t, imageOf(t, files(t, "for", p)), func(c *v1.ConfigFile) {
			c.OS, c.Architecture, c.Variant = platform.OS, platform.Architecture, platform.Variant
		})
		return mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}}
	}
	inner := mutate.AppendManifests(empty.Index, forPlatform("linux/amd64"), forPlatform("linux/amd64/v3"), forPlatform("linux/arm64/v8"),
		forPlatform("linux/arm/v6"), forPlatform("linux/arm/v7"), forPlatform("windows/amd64"), forPlatform("unknown/unknown"))
	registry.push(t, "flat:1", inner)
	registry.push(t, "nested:1", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: inner}))
	wrong := withConfig(t, imageOf(t, files(t, "a", "1")), func(c *v1.ConfigFile) { c.Architecture = "s390x" })
	registry.push(t, "wrong:1", wrong)
	registry.push(t, "other-name:1", withConfig(t, imageOf(t, files(t, "for", "x86")), func(c *v1.ConfigFile) { c.Architecture = "x86_64" }))
	registry.push(t, "silent:1", withConfig(t, imageOf(t, files(t, "for", "any")), func(c *v1.ConfigFile) { c.Architecture, c.OS = "", "" }))

	for _, c := range []struct{ platform, repository, want string }{
		{"linux/amd64", "flat", "linux/amd64"},
		{"linux/amd64/v4", "flat", "linux/amd64/v3"},
		{"linux/amd64", "nested", "linux/amd64"},
		{"linux/arm64", "flat", "linux/arm64/v8"},
		{"linux/arm", "flat", "linux/arm/v7"},
		{"linux/arm/v6", "nested", "linux/arm/v6"},
		{"linux/arm/v5", "flat", ""},
		{"linux/riscv64", "flat", ""},
		{"linux/amd64", "wrong", ""},
		{"linux/amd64", "silent", "any"},
		{"linux/amd64", "other-name", "x86"},
	} {
		s := open(t, images.Options{Platform: c.platform})
		id, err := s.Pull(testContext(t), registry.host+"/"+c.repository+":1", nil)
		if c.want == "" {
			wantError(t, err, c.platform)
			if strings.Contains(err.Error(), "unknown") {
				t.Errorf("what is no image is offered: %v", err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %s: %v", c.platform, c.repository, err)
			continue
		}
		if got := read(t, mount(t, s, "c1", id), "for"); got != c.want {
			t.Errorf("%s %s: the image is for %s, want %s", c.platform, c.repository, got, c.want)
		}
	}
	if _, err := images.Open(testContext(t), images.Options{Root: t.TempDir(), Platform: "linux"}); err == nil {
		t.Error("platform without architecture is taken")
	}
}

// TestIndexWithoutPlatforms: only the images' configs, or the indexes below, say which machine each entry is for.
func TestIndexWithoutPlatforms(t *testing.T) {
	registry := newServer(t)
	mine := imageOf(t, files(t, "a", "mine"))
	other := withConfig(t, imageOf(t, files(t, "a", "other")), func(c *v1.ConfigFile) { c.Architecture = "s390x" })
	named := func(image mutate.Appendable, architecture string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}}}
	}
	index := func(entries ...mutate.IndexAddendum) v1.ImageIndex {
		return mutate.AppendManifests(empty.Index, entries...)
	}
	s := open(t, images.Options{})
	for name, i := range map[string]v1.ImageIndex{
		"manifests": index(mutate.IndexAddendum{Add: other}, mutate.IndexAddendum{Add: mine}),
		"indexes":   index(mutate.IndexAddendum{Add: index(named(other, "s390x"))}, mutate.IndexAddendum{Add: index(named(mine, runtime.GOARCH))}),
		"both":      index(named(index(named(other, "s390x")), runtime.GOARCH), mutate.IndexAddendum{Add: mine}),
	} {
		id := pull(t, s, registry.push(t, name+":1", i))
		if got := read(t, mount(t, s, name, id), "a"); got != "mine" {
			t.Errorf("%s: the image is %s", name, got)
		}
	}
	_, err := s.Pull(testContext(t), registry.push(t, "none:1", index(mutate.IndexAddendum{Add: other}, named(index(named(other, "arm64")), "s390x"))), nil)
	wantError(t, err, "no image for linux/"+runtime.GOARCH, "s390x")
	deep := index(mutate.IndexAddendum{Add: mine})
	for range 110 {
		deep = index(mutate.IndexAddendum{Add: deep})
	}
	_, err = s.Pull(testContext(t), registry.push(t, "deep:1", deep), nil)
	wantError(t, err, "first 100 manifests")
}

func TestCredentials(t *testing.T) {
	registry := newServer(t)
	mirror := newServer(t)
	ref := registry.push(t, "app:1", imageOf(t, files(t, "a", "1")))
	basic := func(user, password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	var want string
	registry.onGet(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/token":
			if r.Header.Get("Authorization") != want {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			_, _ = fmt.Fprint(w, `{"token":"granted"}`)
		case r.Header.Get("Authorization") == "Bearer granted" || !strings.Contains(want, "Basic") && r.Header.Get("Authorization") == want:
			return false
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+registry.URL+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
		return true
	})
	mirror.onGet(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" {
			t.Error("the mirror was sent credentials")
		}
		w.WriteHeader(http.StatusNotFound)
		return true
	})
	good := basic("user", "word")
	for _, c := range []struct {
		name string
		auth *runtimeapi.AuthConfig
		want string
		says string
	}{
		{"password", &runtimeapi.AuthConfig{Username: "user", Password: "word"}, good, ""},
		{"auth", &runtimeapi.AuthConfig{Auth: strings.TrimPrefix(good, "Basic ")}, good, ""},
		{"for this server", &runtimeapi.AuthConfig{Username: "user", Password: "word", ServerAddress: "https://" + registry.host + "/v2/"}, good, ""},
		{"for servers like this", &runtimeapi.AuthConfig{Username: "user", Password: "word", ServerAddress: "127.*"}, good, ""},
		{"registry token", &runtimeapi.AuthConfig{RegistryToken: "handed"}, "Bearer handed", ""},
		{"wrong password", &runtimeapi.AuthConfig{Username: "user", Password: "x"}, good, "not authorized"},
		{"none", nil, good, "not authorized"},
		{"for another server", &runtimeapi.AuthConfig{Username: "user", Password: "word", ServerAddress: "elsewhere.example"}, good, "not authorized"},
		{"not base64", &runtimeapi.AuthConfig{Auth: "?"}, good, "not base64"},
		{"no password", &runtimeapi.AuthConfig{Auth: "dXNlcg=="}, good, "user:password"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want = c.want
			s := open(t, images.Options{Registries: map[string]images.Registry{registry.host: {Mirrors: []string{mirror.URL}}}})
			_, err := s.Pull(testContext(t), ref, c.auth)
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, c.says)
			if strings.Contains(err.Error(), "word\"") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

func TestIdentityToken(t *testing.T) {
	registry := newServer(t)
	ref := registry.push(t, "app:1", imageOf(t, files(t, "a", "1")))
	tokens := http.NewServeMux()
	tokens.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("refresh_token") == "identity" && r.FormValue("grant_type") == "refresh_token" {
			_, _ = fmt.Fprint(w, `{"access_token":"granted"}`)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
	})
	inner := registry.Config.Handler
	registry.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			tokens.ServeHTTP(w, r)
		case r.Header.Get("Authorization") == "Bearer granted":
			inner.ServeHTTP(w, r)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+registry.URL+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	s := open(t, images.Options{})
	if _, err := s.Pull(testContext(t), ref, &runtimeapi.AuthConfig{IdentityToken: "identity"}); err != nil {
		t.Error(err)
	}
	_, err := s.Pull(testContext(t), ref, &runtimeapi.AuthConfig{IdentityToken: "other"})
	wantError(t, err, "not authorized")
}

// TestTokenServerAtAPrivateAddress: a registry that is reached by its address in a private network has its token server at
// another port of it.
func TestTokenServerAtAPrivateAddress(t *testing.T) {
	registry := newServer(t)
	ref := registry.push(t, "app:1", imageOf(t, files(t, "a", "1")))
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user+":"+password != "user:word" || r.FormValue("service") != "test" || r.FormValue("for") != "all" || r.FormValue("scope") == "" || r.URL.Path != "/jwt/auth" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = fmt.Fprint(w, `{"token":"granted"}`)
	}))
	t.Cleanup(tokens.Close)
	inner := registry.Config.Handler
	registry.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer granted" {
			inner.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+tokens.URL+`/jwt/auth?for=all",service="test"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	s := open(t, images.Options{})
	if _, err := s.Pull(testContext(t), ref, &runtimeapi.AuthConfig{Username: "user", Password: "word"}); err != nil {
		t.Error(err)
	}
	_, err := s.Pull(testContext(t), ref, &runtimeapi.AuthConfig{Username: "user", Password: "other"})
	wantError(t, err, "not authorized")
}

func TestMirrors(t *testing.T) {
	mirror, broken := newServer(t), newServer(t)
	mirror.push(t, "library/app:1", imageOf(t, files(t, "a", "1")))
	broken.onGet(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	s := open(t, images.Options{Registries: map[string]images.Registry{
		"docker.io": {Mirrors: []string{broken.URL, mirror.URL}},
		"*":         {Mirrors: []string{mirror.host}},
	}})
	pull(t, s, "app:1")
	if got, ok := s.Image("docker.io/library/app:1"); !ok || got.Tags[0] != "docker.io/library/app:1" {
		t.Errorf("found %v", got)
	}
	pull(t, s, "unknown.example/library/app:1")
	for _, bad := range []string{"ftp://host", "host/path", "http://", "a b"} {
		_, err := images.Open(testContext(t), images.Options{Root: t.TempDir(), Registries: map[string]images.Registry{"docker.io": {Mirrors: []string{bad}}}})
		wantError(t, err, "mirror")
	}
}
