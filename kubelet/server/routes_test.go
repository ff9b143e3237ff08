package server

import (
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// requests are one of each kind, with what each needs: one of the subresources, under the verb.
var requests = []struct{ method, path, verb, subresources string }{
	{"GET", "/healthz", "get", "healthz proxy"},
	{"GET", "/healthz/ping", "get", "healthz proxy"},
	{"GET", "/healthz/log", "get", "healthz proxy"},
	{"GET", "/healthz/syncloop", "get", "healthz proxy"},
	{"GET", "/pods", "get", "pods proxy"},
	{"GET", "/pods/", "get", "pods proxy"},
	{"HEAD", "/pods", "get", "pods proxy"},
	{"GET", "/runningpods/", "get", "pods proxy"},
	{"GET", "/runningpods", "get", "pods proxy"},
	{"GET", "/configz", "get", "configz proxy"},
	{"GET", "/flagz", "get", "configz"},
	{"GET", "/statusz", "get", "statusz"},
	{"GET", "/metrics", "get", "metrics"},
	{"GET", "/metrics/cadvisor", "get", "metrics"},
	{"GET", "/metrics/probes", "get", "metrics"},
	{"GET", "/metrics/resource", "get", "metrics"},
	{"GET", "/metrics/slis", "get", "metrics"},
	{"GET", "/stats/summary", "get", "stats"},
	{"POST", "/stats/summary", "create", "stats"},
	{"GET", "/stats/summary/", "get", "stats"},
	{"POST", "/stats/summary/", "create", "stats"},
	{"GET", "/logs/", "get", "log"},
	{"GET", "/logs/x", "get", "log"},
	{"GET", "/containerLogs/default/web/app", "get", "proxy"},
	{"GET", "/exec/default/web/app?output=1", "create", "proxy"},
	{"POST", "/exec/default/web/app?output=1", "create", "proxy"},
	{"GET", "/exec/default/web/u1/app?output=1", "create", "proxy"},
	{"POST", "/exec/default/web/u1/app?output=1", "create", "proxy"},
	{"GET", "/attach/default/web/app?output=1", "create", "proxy"},
	{"POST", "/attach/default/web/app?output=1", "create", "proxy"},
	{"GET", "/attach/default/web/u1/app?output=1", "create", "proxy"},
	{"POST", "/attach/default/web/u1/app?output=1", "create", "proxy"},
	{"GET", "/portForward/default/web", "create", "proxy"},
	{"POST", "/portForward/default/web", "create", "proxy"},
	{"GET", "/portForward/default/web/u1", "create", "proxy"},
	{"POST", "/portForward/default/web/u1", "create", "proxy"},
	{"POST", "/run/default/web/app?cmd=x", "create", "proxy"},
	{"POST", "/run/default/web/u1/app?cmd=x", "create", "proxy"},
	{"POST", "/checkpoint/default/web/app", "create", "checkpoint"},
	{"GET", "/debug/pprof/", "get", "proxy"},
	{"GET", "/debug/pprof/heap", "get", "proxy"},
	{"GET", "/debug/pprof/cmdline", "get", "proxy"},
	{"GET", "/debug/pprof/profile?seconds=1", "get", "proxy"},
	{"GET", "/debug/pprof/symbol", "get", "proxy"},
	{"GET", "/debug/pprof/trace?seconds=0.01", "get", "proxy"},
	{"PUT", "/debug/flags/v", "update", "proxy"},
	{"GET", "/", "get", "proxy"},
	{"GET", "/nothing", "get", "proxy"},
	{"DELETE", "/pods", "delete", "pods proxy"},
	{"GET", "/run/default/web/app?cmd=x", "get", "proxy"},
	{"PROPFIND", "/pods", "", "pods proxy"},
	{"POST", "/metrics", "create", "metrics"},
	{"PUT", "/exec/default/web/app", "update", "proxy"},
	{"GET", "/checkpoint/default/web/app", "get", "checkpoint"},
	{"GET", "/checkpoint/default/web", "get", "checkpoint"},
	{"GET", "/healthz/nothing", "get", "healthz proxy"},
	{"GET", "/pods/nothing", "get", "pods proxy"},
	{"GET", "/runningpods/nothing", "get", "pods proxy"},
	{"GET", "/configz/nothing", "get", "configz proxy"},
	{"GET", "/flagz/nothing", "get", "configz"},
	{"GET", "/statusz/nothing", "get", "statusz"},
	{"GET", "/metrics/nothing", "get", "metrics"},
	{"GET", "/stats/", "get", "stats"},
	{"GET", "/stats", "get", "stats"},
	{"GET", "/checkpoint", "get", "checkpoint"},
}

// TestAccess: each path needs a known user, and a right of its own.
func TestAccess(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	f := newFixture(t, map[string]any{
		"enableProfilingHandler": true, "enableDebugFlagsHandler": true,
		"authorization": map[string]any{"mode": "Webhook", "webhook": map[string]any{"cacheAuthorizedTTL": "1ns", "cacheUnauthorizedTTL": "1ns"}},
	}, nil)
	defer f.stop()
	f.root = t.TempDir()
	strangers := map[string]*http.Client{
		"no certificate":      f.client(t, nil),
		"another authority's": f.client(t, newAuthority(t).issue(t, pkix.Name{CommonName: "root", Organization: []string{"system:masters"}})),
	}
	alice := f.client(t, f.ca.issue(t, pkix.Name{CommonName: "alice"}))
	for _, r := range requests {
		what := r.method + " " + r.path
		for name, stranger := range strangers {
			for _, authorization := range []string{"", "Bearer x", "Bearer ", "Basic cm9vdDpyb290"} {
				if code, _ := f.do(t, stranger, r.method, r.path, "Authorization", authorization); code != http.StatusUnauthorized {
					t.Errorf("%s by %s, Authorization %q: %d", what, name, authorization, code)
				}
			}
		}
		wanted := strings.Fields(r.subresources)
		for i, subresource := range wanted {
			wanted[i] = r.verb + " " + subresource
		}
		f.reviews.granting(without(wanted)...)
		if code, body := f.do(t, alice, r.method, r.path); code != http.StatusForbidden {
			t.Errorf("%s with everything but %q: %d %s", what, wanted, code, body)
		}
		if asked := f.reviews.were(); !slices.Equal(asked, wanted) {
			t.Errorf("%s: the apiserver was asked %q, want %q", what, asked, wanted)
		}
		for _, enough := range wanted {
			f.reviews.granting(enough)
			if code, body := f.do(t, alice, r.method, r.path); code == http.StatusForbidden || code == http.StatusUnauthorized {
				t.Errorf("%s with %q: %d %s", what, enough, code, body)
			}
			f.reviews.granting(enough)
			if code, _ := f.do(t, strangers["no certificate"], r.method, r.path, "Authorization", "Bearer token-of-bob"); code == http.StatusForbidden || code == http.StatusUnauthorized {
				t.Errorf("%s by a token with %q: %d", what, enough, code)
			}
		}
	}
	for _, client := range strangers {
		client.CloseIdleConnections()
	}
	alice.CloseIdleConnections()
}

// TestEveryRoute: TestAccess asks for everything that the server answers.
func TestEveryRoute(t *testing.T) {
	f := newFixture(t, map[string]any{"enableProfilingHandler": true, "enableDebugFlagsHandler": true}, nil)
	defer f.stop()
	for _, r := range f.routes() {
		mux := http.NewServeMux()
		mux.Handle(r.pattern, http.NotFoundHandler())
		if !slices.ContainsFunc(requests, func(q struct{ method, path, verb, subresources string }) bool {
			asked, err := http.NewRequestWithContext(t.Context(), q.method, q.path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			_, pattern := mux.Handler(asked)
			return pattern == r.pattern
		}) {
			t.Errorf("nothing asks for %s", r.pattern)
		}
	}
}

// TestMethods: a path that is there says which methods it takes, one that is not is not found.
func TestMethods(t *testing.T) {
	f := newFixture(t, nil, nil)
	root := f.asRoot(t)
	for request, want := range map[string]string{
		"POST /pods": "405 GET", "DELETE /containerLogs/default/web/app": "405 GET", "POST /logs/": "405 GET", "POST /configz": "405 GET", "PUT /metrics": "405 GET",
		"PUT /exec/default/web/app": "405 GET, POST", "PATCH /portForward/default/web/u1": "405 GET, POST", "GET /run/default/web/app": "405 POST", "GET /checkpoint/default/web/app": "405 POST",
		"PUT /stats/summary": "405 GET, POST", "DELETE /healthz": "200 ", "HEAD /pods": "200 ",
		"POST /nothing": "404 ", "GET /metrics/nothing": "404 ", "GET /checkpoint/default": "404 ", "GET /exec/default": "404 ",
	} {
		method, path, _ := strings.Cut(request, " ")
		r, err := http.NewRequestWithContext(t.Context(), method, "https://"+f.Addr()+path, http.NoBody)
		must(t, err)
		answer, err := root.Do(r)
		must(t, err)
		_ = answer.Body.Close()
		if got := fmt.Sprint(answer.StatusCode, " ", answer.Header.Get("Allow")); got != want {
			t.Errorf("%s: %s, want %s", request, got, want)
		}
	}
}

// without returns every right but these.
func without(rights []string) []string {
	var all []string
	for _, verb := range []string{"get", "create", "update", "patch", "delete", "watch", ""} {
		for _, subresource := range []string{"proxy", "pods", "healthz", "configz", "statusz", "metrics", "stats", "log", "checkpoint", "spec", ""} {
			if right := verb + " " + subresource; !slices.Contains(rights, right) {
				all = append(all, right)
			}
		}
	}
	return all
}

// TestOddPaths: however a path is written, it does not get around what it needs.
func TestOddPaths(t *testing.T) {
	f := newFixture(t, nil, nil)
	alice := f.client(t, f.ca.issue(t, pkix.Name{CommonName: "alice"}))
	f.reviews.granting("get pods", "get healthz", "get metrics", "get log", "get stats")
	for _, path := range []string{
		"//configz", "/pods/../configz", "/healthz/../exec/default/web/app", "/logs/../configz", "/metrics/..%2fconfigz", "/metrics%2f..%2fconfigz",
		"/./configz", "/CONFIGZ", "/configz/", "/configz%20", "/stats/../runningpods/../configz", "/logs/..%2f..%2fetc/passwd", "/healthz/nothing",
	} {
		code, body := f.do(t, alice, http.MethodGet, path)
		if code == http.StatusOK || strings.Contains(body, "kubeletconfig") || strings.Contains(body, "root:") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

// TestAnonymous: off unless switched on, and then as weak as the authorizer makes it.
func TestAnonymous(t *testing.T) {
	f := newFixture(t, map[string]any{"authentication": map[string]any{"anonymous": map[string]any{"enabled": true}}}, nil)
	stranger := f.client(t, nil)
	if code, _ := f.do(t, stranger, http.MethodGet, "/pods"); code != http.StatusForbidden {
		t.Errorf("/pods: %d", code)
	}
	f.reviews.granting("get healthz")
	if code, body := f.do(t, stranger, http.MethodGet, "/healthz"); code != http.StatusOK || body != "ok" {
		t.Errorf("/healthz: %d %s", code, body)
	}
}

// TestSwitchedOff: what the settings switch off is not there, whatever the user may do.
func TestSwitchedOff(t *testing.T) {
	for name, tt := range map[string]struct {
		config map[string]any
		off    []string
		on     []string
	}{
		"by default": {nil, []string{"/debug/pprof/", "/debug/flags/v"}, []string{"/pods", "/configz", "/statusz", "/flagz"}},
		"debugging handlers": {
			map[string]any{"enableDebuggingHandlers": false, "enableProfilingHandler": true},
			[]string{"/exec/default/web/app", "/attach/default/web/app", "/portForward/default/web", "/containerLogs/default/web/app", "/run/default/web/app", "/runningpods/", "/logs/", "/debug/pprof/heap"},
			[]string{"/pods", "/healthz", "/metrics", "/stats/summary"},
		},
		"system logs": {map[string]any{"enableSystemLogHandler": false}, []string{"/logs/", "/logs/syslog"}, []string{"/runningpods/"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tt.config, nil)
			root := f.asRoot(t)
			for _, path := range tt.off {
				if code, body := f.do(t, root, http.MethodGet, path); code != http.StatusMethodNotAllowed || !strings.Contains(body, "disabled") {
					t.Errorf("%s: %d %s", path, code, body)
				}
			}
			for _, path := range tt.on {
				if code, body := f.do(t, root, http.MethodGet, path); code != http.StatusOK {
					t.Errorf("%s: %d %s", path, code, body)
				}
			}
		})
	}
}
