package images

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// dockerConfig is a secret with one login per location, named after it.
func dockerConfig(name string, locations ...string) corev1.Secret {
	auths := map[string]any{}
	for _, location := range locations {
		auths[location] = map[string]string{"username": location, "password": "pw"}
	}
	data, _ := json.Marshal(map[string]any{"auths": auths})
	return corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: "uid-of-" + "secret"},
		Type:       corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: data},
	}
}

func users(credentials []Credential) []string {
	var out []string
	for _, c := range credentials {
		out = append(out, c.Auth.Username)
	}
	return out
}

func TestLookup(t *testing.T) {
	for _, test := range []struct {
		name       string
		locations  []string
		repository string
		want       []string
	}{
		{"host", []string{"registry.example"}, "registry.example/team/app", []string{"registry.example"}},
		{"other host", []string{"registry.example"}, "other.example/team/app", nil},
		{"most specific first", []string{"registry.example", "registry.example/team/app", "registry.example/team"}, "registry.example/team/app", []string{"registry.example/team/app", "registry.example/team", "registry.example"}},
		{"path is a prefix", []string{"registry.example/team"}, "registry.example/other/app", nil},
		{"scheme", []string{"https://registry.example", "http://other.example"}, "registry.example/app", []string{"https://registry.example"}},
		{"old API path", []string{"https://registry.example/v1/"}, "registry.example/app", []string{"https://registry.example/v1/"}},
		{"API path and more", []string{"registry.example/v2/team"}, "registry.example/team/app", []string{"registry.example/v2/team"}},
		{"port", []string{"reg.local:5000"}, "reg.local:5000/app", []string{"reg.local:5000"}},
		{"port differs", []string{"reg.local:5000"}, "reg.local:5001/app", nil},
		{"port missing", []string{"reg.local"}, "reg.local:5000/app", nil},
		{"port too many", []string{"reg.local:5000"}, "reg.local/app", nil},
		{"IPv6", []string{"[::1]:5000"}, "[::1]:5000/app", []string{"[::1]:5000"}},
		{"glob", []string{"*.azurecr.io"}, "prod.azurecr.io/app", []string{"*.azurecr.io"}},
		{"glob is one label", []string{"*.io"}, "a.b.io/app", nil},
		{"glob within a label", []string{"pre*.example.com"}, "prefix.example.com/app", []string{"pre*.example.com"}},
		{"glob, port and path", []string{"*.example.com:8443/team"}, "eu.example.com:8443/team/app", []string{"*.example.com:8443/team"}},
		{"host before glob", []string{"*.example.com", "eu.example.com"}, "eu.example.com/app", []string{"eu.example.com", "*.example.com"}},
		{"bad glob", []string{"[a.example.com"}, "eu.example.com/app", nil},
		{"docker hub", []string{"https://index.docker.io/v1/"}, "docker.io/library/busybox", []string{"https://index.docker.io/v1/"}},
		{"docker hub by name", []string{"docker.io", "https://index.docker.io/v1/"}, "docker.io/library/busybox", []string{"docker.io"}},
		{"docker hub is no other", []string{"https://index.docker.io/v1/"}, "registry.example/busybox", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Lookup([]corev1.Secret{dockerConfig("pull", test.locations...)}, test.repository)
			if err != nil && test.name != "bad glob" {
				t.Error(err)
			}
			if !slices.Equal(users(got), test.want) {
				t.Errorf("Lookup = %v, want %v", users(got), test.want)
			}
		})
	}
}

func TestLookupSecrets(t *testing.T) {
	auth := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	secret := func(name string, kind corev1.SecretType, key, data string) corev1.Secret {
		return corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Type: kind, Data: map[string][]byte{key: []byte(data)}}
	}
	secrets := []corev1.Secret{
		secret("old", corev1.SecretTypeDockercfg, corev1.DockerConfigKey, `{"registry.example": {"auth": "`+auth("one:se:cret")+`", "email": "x@y"}}`),
		secret("raw", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths": {"registry.example": {"auth": "`+strings.TrimRight(auth("two:12"), "=")+`"}}}`),
		secret("opaque", corev1.SecretTypeOpaque, corev1.DockerConfigJsonKey, `{"auths": {"registry.example": {"username": "no"}}}`),
		secret("broken", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths": {"hunter2`),
		secret("notbase64", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths": {"registry.example": {"auth": "%hunter2"}, "other.example": {"username": "g"}}}`),
		secret("nocolon", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths": {"registry.example": {"auth": "`+auth("hunter2")+`"}}}`),
		{Type: corev1.SecretTypeDockerConfigJson},
	}
	got, err := Lookup(secrets, "registry.example/app")
	if want := []string{"one", "two"}; !slices.Equal(users(got), want) || got[0].Auth.Password != "se:cret" || got[1].Auth.Password != "12" {
		t.Errorf("Lookup = %v, want %v", got, want)
	}
	if a, b := got[0].Source.KubernetesSecrets[0], got[1].Source.KubernetesSecrets[0]; a.Name != "old" || a.CredentialHash == "" || a.CredentialHash == b.CredentialHash {
		t.Errorf("sources = %v, %v", got[0].Source, got[1].Source)
	}
	for _, name := range []string{"broken", "notbase64", "nocolon"} {
		if err == nil || !strings.Contains(err.Error(), "ns/"+name) {
			t.Errorf("error %v does not name secret %s", err, name)
		}
	}
	if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), auth("hunter2")) {
		t.Errorf("error %v shows what the secret holds", err)
	}
}

// A credential never goes to a host that its location does not name.
func FuzzLookup(f *testing.F) {
	for _, seed := range [][2]string{
		{"registry.example", "registry.example/app"}, {"*.io:5000/x", "a.io:5000/x/y"}, {"https://index.docker.io/v1/", "docker.io/library/x"},
		{"[::1]:5", "[::1]:5/x"}, {"a.b@evil.com", "evil.com/x"}, {"", "x"}, {"%2f", "/"}, {"a?b#c", "a/b"}, {"#", "a.io@@@@@/x/y"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, location, repository string) {
		got, err := Lookup([]corev1.Secret{dockerConfig("pull", location)}, repository)
		if err != nil && len(got) > 0 {
			t.Errorf("Lookup(%q, %q) = %v and an error: %v", location, repository, got, err)
		}
		if len(got) == 0 {
			return
		}
		key, err := normalLocation(location)
		if err != nil {
			t.Fatalf("a location that does not parse matched: %q", location)
		}
		host, _, _ := strings.Cut(key, "/")
		target, _, _ := strings.Cut(repository, "/")
		if strings.Count(host, ".") != strings.Count(target, ".") && !inDefaultRegistry(repository) {
			t.Errorf("credential for %q would go to %q", host, target)
		}
	})
}
