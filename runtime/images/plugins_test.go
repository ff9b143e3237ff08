package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
)

const pluginConfigHead = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n"

// pluginDir makes a directory with a configuration and with programs. Each program notes its requests in NAME.asked and prints NAME.answer.
func pluginDir(t *testing.T, config string, answers map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{"config.yaml": pluginConfigHead + config}
	for name, answer := range answers {
		files[name+".answer"] = answer
		files[name] = fmt.Sprintf("#!/bin/sh\ncat >>%[1]s/%[2]s.asked\necho >>%[1]s/%[2]s.asked\necho \"$FROM_CONFIG\" >&2\n[ -s %[1]s/%[2]s.answer ] || exit 3\ncat %[1]s/%[2]s.answer\n", dir, name)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func pluginAnswerText(cacheKey, duration, auth string) string {
	if duration != "" {
		duration = `"cacheDuration":"` + duration + `",`
	}
	return `{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"` + cacheKey + `",` + duration + `"auth":` + auth + `}`
}

func provider(name, more string) string {
	return "- {name: " + name + ", apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: ['*.registry.example', 'other.example:5000/team'], defaultCacheDuration: 1m" + more + "}\n"
}

// asked is how often a plugin was run, and its last request.
func asked(t *testing.T, dir, name string) (times int, last string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name+".asked"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	lines := strings.Fields(string(data))
	if len(lines) == 0 {
		return 0, ""
	}
	return len(lines), lines[len(lines)-1]
}

func usernames(found []Credential) (names []string) {
	for _, f := range found {
		names = append(names, f.Auth.Username+":"+f.Auth.Password)
	}
	return names
}

// TestPlugins: plugins are run for the images they match, in their order, and not again while an answer holds.
func TestPlugins(t *testing.T) {
	dir := pluginDir(t, provider("a", "")+provider("b", ", env: [{name: FROM_CONFIG, value: why}]"), map[string]string{
		"a": pluginAnswerText("Registry", "30s", `{"*.registry.example":{"username":"wide","password":"1"},"x.registry.example/team":{"username":"near","password":"2"}}`),
		"b": pluginAnswerText("Image", "", `{"x.registry.example":{"username":"b","password":"3"}}`),
	})
	now := clocktesting.NewFakePassiveClock(time.Now())
	p, err := NewPlugins(PluginOptions{ConfigPath: dir + "/config.yaml", BinDir: dir, Clock: now})
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "u"}}
	want := func(repository, credentials string, a, b int) {
		t.Helper()
		if got := strings.Join(usernames(p.Lookup(t.Context(), pod, repository)), " "); got != credentials {
			t.Errorf("%s: %q, want %q", repository, got, credentials)
		}
		gotA, request := asked(t, dir, "a")
		gotB, _ := asked(t, dir, "b")
		if gotA != a || gotB != b {
			t.Errorf("%s: the plugins have run %d and %d times, want %d and %d; last request %s", repository, gotA, gotB, a, b, request)
		}
	}
	want("docker.io/library/busybox", "", 0, 0)
	want("x.registry.example/team/app", "near:2 wide:1 b:3", 1, 1)
	if _, request := asked(t, dir, "a"); request != `{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"x.registry.example/team/app"}` {
		t.Errorf("the request is %s", request)
	}
	want("x.registry.example/team/app", "near:2 wide:1 b:3", 1, 1)
	want("x.registry.example/other", "wide:1 b:3", 1, 2) // the registry's answer of a, another image's of b
	now.SetTime(now.Now().Add(31 * time.Second))
	want("x.registry.example/team/app", "near:2 wide:1 b:3", 2, 2)
	now.SetTime(now.Now().Add(30 * time.Second))
	if err := os.WriteFile(dir+"/b.answer", nil, 0o600); err != nil { // b fails from now on, a counts all the same
		t.Fatal(err)
	}
	want("x.registry.example/team/app", "near:2 wide:1", 3, 3)
}

// TestPluginsShareOneRun: pulls of one image at the same time ask once.
func TestPluginsShareOneRun(t *testing.T) {
	dir := pluginDir(t, provider("a", ""), map[string]string{"a": pluginAnswerText("Image", "", `{"x.registry.example":{"username":"a","password":"1"}}`)})
	p, err := NewPlugins(PluginOptions{ConfigPath: dir, BinDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	var pulls sync.WaitGroup
	for range 20 {
		pulls.Go(func() {
			if found := p.Lookup(t.Context(), &corev1.Pod{}, "x.registry.example/app"); len(found) != 1 {
				t.Errorf("found %v", usernames(found))
			}
		})
	}
	pulls.Wait()
	if times, _ := asked(t, dir, "a"); times != 1 {
		t.Errorf("the plugin has run %d times", times)
	}
}

// TestPluginTokens: a plugin that wants one gets a token of the pod's service account, and its answers are kept apart by account or token.
func TestPluginTokens(t *testing.T) {
	tokens := ", tokenAttributes: {serviceAccountTokenAudience: registry, requireServiceAccount: true, cacheType: %s, requiredServiceAccountAnnotationKeys: [example.com/role], optionalServiceAccountAnnotationKeys: [example.com/more]}"
	for by, runs := range map[string]int{"ServiceAccount": 1, "Token": 2} {
		dir := pluginDir(t, provider("a", fmt.Sprintf(tokens, by)), map[string]string{"a": pluginAnswerText("Image", "", `{"x.registry.example":{"username":"a","password":"1"}}`)})
		annotations := map[string]string{"example.com/role": "puller", "unasked": "x"}
		p, err := NewPlugins(PluginOptions{
			ConfigPath: dir, BinDir: dir,
			ServiceAccount: func(_ context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
				return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "sa-uid", Annotations: annotations}}, nil
			},
			Token: func(_ context.Context, _, _ string, r *authv1.TokenRequest) (*authv1.TokenRequest, error) {
				if r.UID != "sa-uid" || r.Spec.Audiences[0] != "registry" {
					t.Errorf("the token request is %+v", r)
				}
				return &authv1.TokenRequest{Status: authv1.TokenRequestStatus{Token: "token-of-" + r.Spec.BoundObjectRef.Name}}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		pod := func(name, account string) *corev1.Pod {
			return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{ServiceAccountName: account}}
		}
		if found := p.Lookup(t.Context(), pod("static", ""), "x.registry.example/app"); len(found) != 0 {
			t.Errorf("a pod without a service account: %v", usernames(found))
		}
		for _, name := range []string{"one", "two", "two"} {
			if found := p.Lookup(t.Context(), pod(name, "sa"), "x.registry.example/app"); len(found) != 1 || found[0].Source.KubernetesServiceAccounts[0].UID != "sa-uid" {
				t.Errorf("%s: found %+v", name, found)
			}
		}
		times, request := asked(t, dir, "a")
		if times != runs || !strings.Contains(request, `"serviceAccountToken":"token-of-`) || !strings.Contains(request, `"serviceAccountAnnotations":{"example.com/role":"puller"}`) {
			t.Errorf("cacheType %s: %d runs, want %d; the request is %s", by, times, runs, request)
		}
		delete(annotations, "example.com/role")
		if found := p.Lookup(t.Context(), pod("three", "sa"), "x.registry.example/app"); len(found) != 0 {
			t.Errorf("an account without the required annotation: %v", usernames(found))
		}
	}
}

// TestPluginConfig: one error names every problem of the configuration with its file and provider.
func TestPluginConfig(t *testing.T) {
	good := pluginAnswerText("Image", "", "{}")
	dir := pluginDir(t, provider("a", "")+provider("a", "")+provider("missing", "")+
		"- {name: ../a, apiVersion: v9, tokenAttributes: {cacheType: Never, requiredServiceAccountAnnotationKeys: [k, k]}}\n", map[string]string{"a": good})
	if err := os.WriteFile(dir+"/z.json", []byte(`{"kind":"CredentialProviderConfig","apiVersion":"kubelet.config.k8s.io/v1","unknown":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := NewPlugins(PluginOptions{ConfigPath: dir, BinDir: dir})
	for _, want := range []string{
		`config.yaml: providers[1]: the name "a" is there twice`, `providers[2] (missing): name:`, `providers[3] (../a): name:`, `apiVersion: "v9"`, "matchImages", "defaultCacheDuration",
		"serviceAccountTokenAudience", "requireServiceAccount", "cacheType", `annotation key "k" is there twice`, `z.json: `, `unknown field "unknown"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
	for _, path := range []string{dir + "/none", t.TempDir()} {
		if _, err := NewPlugins(PluginOptions{ConfigPath: path, BinDir: dir}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestPluginAnswers: an answer that is wrong is an error without its content, and nothing of it is used.
func TestPluginAnswers(t *testing.T) {
	for _, answer := range []string{
		"secret, but no JSON",
		`{"apiVersion":"credentialprovider.kubelet.k8s.io/v1beta1","kind":"CredentialProviderResponse","cacheKeyType":"Image","auth":{"x.registry.example":{"username":"secret"}}}`,
		pluginAnswerText("Sometimes", "", `{"x.registry.example":{"username":"secret","password":"secret"}}`),
		strings.Repeat("secret", pluginAnswerLimit/5),
	} {
		dir := pluginDir(t, provider("a", ""), map[string]string{"a": answer})
		p, err := NewPlugins(PluginOptions{ConfigPath: dir, BinDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.ask(t.Context(), &p.list[0], &corev1.Pod{}, "x.registry.example/app"); err == nil || len(got) > 0 || strings.Contains(err.Error(), "secret") {
			t.Errorf("%.40s: %v, %v", answer, usernames(got), err)
		}
	}
}
