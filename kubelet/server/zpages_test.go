package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDebugPages: what the kubelet says of itself holds no secret.
func TestDebugPages(t *testing.T) {
	f := newFixture(t, map[string]any{
		"staticPodURL": "http://me:sesame@127.0.0.1/pods?key=sesame", "staticPodURLHeader": map[string]any{"X-Key": []string{"sesame"}}, "enableDebugFlagsHandler": true,
	}, nil)
	f.settings.Flags["manifest-url-header"] = "X-Key:sesame"
	f.settings.Flags["manifest-url"] = "http://sesame@127.0.0.1/flag?sesame"
	root := f.asRoot(t)
	for path, want := range map[string]string{
		"/configz?": "http://masked@127.0.0.1/pods?masked", "/flagz?": "manifest-url=http://masked@127.0.0.1/flag?masked\n",
		"/configz": `"X-Key":["\u003cmasked\u003e"]`, "/flagz": "manifest-url-header=<masked>\n", "/statusz": "Paths: /attach/",
		"/metrics": "metrics", "/metrics/cadvisor": "cadvisor", "/metrics/probes": "probes", "/metrics/resource": "resource", "/stats/summary": "summary",
		"/healthz?verbose": "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n",
	} {
		code, body := f.do(t, root, http.MethodGet, path)
		if code != http.StatusOK || !strings.Contains(body, want) || strings.Contains(body, "sesame") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if f.settings.StaticPodURLHeader["X-Key"][0] != "sesame" || !strings.Contains(f.settings.StaticPodURL, "sesame") {
		t.Error("the page changed the settings")
	}
}

// TestPageForms: text for people, and for machines what names the kind, the group and a version.
func TestPageForms(t *testing.T) {
	f := newFixture(t, nil, nil)
	root := f.asRoot(t)
	const as, flagzBeta = ";as=Statusz;g=config.k8s.io", "application/json;as=Flagz;v=v1beta1;g=config.k8s.io"
	for _, tt := range []struct{ path, accept, want string }{
		{"/statusz", "", "200 kubelet statusz\n"},
		{"/statusz", "text/plain", "200 kubelet statusz\n"},
		{"/statusz", "image/png, */*;q=0.8", "200 kubelet statusz\n"},
		{"/statusz", "application/json;v=v1beta1" + as, `200 {"kind":"Statusz","apiVersion":"config.k8s.io/v1beta1","metadata":{"name":"kubelet"},"startTime":"`},
		{"/statusz", "application/json;v=v1alpha1" + as, `200 {"kind":"Statusz","apiVersion":"config.k8s.io/v1alpha1","metadata":{"name":"kubelet"},"startTime":"`},
		{"/statusz", "application/json;v=v9" + as + ", application/yaml;v=v1beta1" + as, "200 apiVersion: config.k8s.io/v1beta1\nbinaryVersion: "},
		{"/statusz", "application/json", "406 "}, {"/statusz", "application/json;v=v1" + as, "406 "}, {"/statusz", flagzBeta, "406 "}, {"/statusz", ";;,/", "406 "},
		{"/flagz", flagzBeta, `200 {"kind":"Flagz","apiVersion":"config.k8s.io/v1beta1","metadata":{"name":"kubelet"},"flags":{"`},
		{"/flagz", "text/plain", "200 kubelet flagz\n"},
	} {
		code, body := f.do(t, root, http.MethodGet, tt.path, "Accept", tt.accept)
		if !strings.HasPrefix(fmt.Sprint(code, " ", body), tt.want) {
			t.Errorf("%s, Accept %q: %d %.200s, want %s", tt.path, tt.accept, code, body, tt.want)
		}
	}
	if _, body := f.do(t, root, http.MethodGet, "/statusz", "Accept", "application/json;v=v1beta1"+as); !strings.Contains(body, `"/exec/{namespace}/{pod}/{container}"`) || !strings.Contains(body, `"uptimeSeconds":`) {
		t.Errorf("/statusz: %s", body)
	}
}

// TestPageTypes: an answer for machines says of which kind, group and version it is.
func TestPageTypes(t *testing.T) {
	for asked, want := range map[string]string{
		"application/json;as=Flagz;v=v1beta1;g=config.k8s.io": "application/json;g=config.k8s.io;v=v1beta1;as=Flagz", "text/plain": "text/plain; charset=utf-8",
		"application/yaml;as=Flagz;v=v1alpha1;g=config.k8s.io": "application/yaml;g=config.k8s.io;v=v1alpha1;as=Flagz",
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/flagz", http.NoBody)
		r.Header.Set("Accept", asked)
		must(t, newServer(Options{Settings: load(t, t.TempDir(), nil, "--kubeconfig=/none")}).getFlagz(w, r))
		if got := w.Header().Get("Content-Type"); got != want {
			t.Errorf("%s: %s, want %s", asked, got, want)
		}
	}
}

// paths are what each right opens, by the beginnings of paths.
var paths = map[string][]string{
	"get healthz": {"/healthz"}, "get pods": {"/pods", "/runningpods"}, "get configz": {"/configz", "/flagz"}, "get statusz": {"/statusz"},
	"get metrics": {"/metrics"}, "get stats": {"/stats"}, "create stats": {"/stats"}, "get log": {"/logs/"}, "create checkpoint": {"/checkpoint/"},
}

// FuzzRequests: whatever is sent, there is no way in without credentials or with a right to something else, nothing is
// done by who is not allowed to, and no handler panics.
func FuzzRequests(f *testing.F) {
	for i, r := range requests {
		f.Add(r.method+" "+r.path+" HTTP/1.1\r\nHost: node\r\nAccept: application/json;as=Flagz;v=v1beta1;g=config.k8s.io, */*\r\n\r\n", uint8(i))
	}
	f.Add("PUT /debug/flags/v HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n4\r\n0\r\n\r\n", uint8(200))
	f.Add("GET /healthz?verbose&exclude=log&exclude=x HTTP/1.1\r\nHost: node\r\n\r\n", uint8(0))
	f.Add("GET /pods HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer x, Bearer y\r\nAuthorization: Basic cm9vdDpyb290\r\n\r\n", uint8(1))
	f.Add("GET /containerLogs/default/web/app?follow=1&tailLines=3 HTTP/1.1\r\nHost: node\r\n\r\n", uint8(100))
	fixture := newFixture(f, map[string]any{
		"authorization": map[string]any{"mode": "Webhook", "webhook": map[string]any{"cacheAuthorizedTTL": "1ns", "cacheUnauthorizedTTL": "1ns"}},
	}, nil)
	fixture.stop() // the handler alone is asked
	fixture.root = f.TempDir()
	fixture.stopped = f.Context()
	writeFile(f, fixture.observed.Containers[0].LogPath, "2026-01-01T00:00:00Z stdout F text\n")
	handler := fixture.handler(true)
	rights := make([]string, 0, len(paths))
	for right := range paths {
		rights = append(rights, right)
	}
	slices.Sort(rights)
	ask := func(t *testing.T, raw, token string) (path string, code int) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return "", 0
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond) // a followed log has no end
		defer cancel()
		r = r.WithContext(ctx)
		r.RemoteAddr = "192.0.2.1:1"
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // net/http compares so too
				panic(p)
			}
		}()
		_ = fixture.runtime.took(nil)
		handler.ServeHTTP(w, r)
		return r.URL.Path, w.Code
	}
	f.Fuzz(func(t *testing.T, raw string, which uint8) {
		fixture.reviews.granting()
		path, code := ask(t, raw, "")
		if path == "" && code == 0 {
			return
		}
		if code != http.StatusUnauthorized && !strings.Contains(raw, "token-of-") {
			t.Errorf("%q by nobody: %d", raw, code)
		}
		if _, code := ask(t, raw, "token-of-bob"); code < 300 || fixture.runtime.last != nil {
			t.Errorf("%q by bob, who may nothing: %d", raw, code)
		}
		right := rights[int(which)%len(rights)]
		fixture.reviews.granting(right)
		opens := func(prefix string) bool { return strings.HasPrefix(path, prefix) }
		if _, code := ask(t, raw, "token-of-bob"); (code < 300 || fixture.runtime.last != nil) && !slices.ContainsFunc(paths[right], opens) {
			t.Errorf("%q with %s: %d", raw, right, code)
		}
		ask(t, raw, "token-of-root")
	})
}

// FuzzPageForm: a page is text or of a version that there is; a client that takes neither is told so.
func FuzzPageForm(f *testing.F) {
	f.Add("application/json;as=Statusz;v=v1beta1;g=config.k8s.io, text/plain")
	f.Add(`application/yaml; as="Statusz"; v=v1alpha1; g=config.k8s.io;q=0.1`)
	f.Fuzz(func(t *testing.T, accept string) {
		form, err := pageForm([]string{accept}, "Statusz")
		if e, ok := errors.AsType[*httpError](err); err != nil && (!ok || e.status != http.StatusNotAcceptable) {
			t.Errorf("%q: %v", accept, err)
		}
		if form.version != "" && (form.version != "v1alpha1" && form.version != "v1beta1" || !strings.Contains(strings.ToLower(accept), "application/")) {
			t.Errorf("%q: %+v", accept, form)
		}
	})
}
