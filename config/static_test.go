package config

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	podinfo "minikubelet/config/pod"
)

const manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {containers: [{name: c, image: %s}]}\n"

func TestStatic(t *testing.T) {
	parse := func(text string) *corev1.Pod {
		t.Helper()
		pods, err := parseManifests([]byte(text))
		if err != nil || len(pods) != 1 {
			t.Fatalf("%v, %v", pods, err)
		}
		p, err := static(pods[0], podinfo.SourceFile, "file:/m/a.yaml", "node")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := parse(fmt.Sprintf(manifest, "web", "app:1"))
	if p.Name != "web-node" || p.Namespace != "default" || p.Spec.NodeName != "node" {
		t.Errorf("name %q, namespace %q, node %q", p.Name, p.Namespace, p.Spec.NodeName)
	}
	if p.UID == "" || p.Annotations[podinfo.HashAnnotation] != string(p.UID) || p.Annotations[podinfo.SourceAnnotation] != podinfo.SourceFile || !podinfo.IsStatic(p) {
		t.Errorf("UID %q, annotations %v", p.UID, p.Annotations)
	}
	if again := parse(fmt.Sprintf(manifest, "web", "app:1")); again.UID != p.UID {
		t.Error("the same manifest is another pod")
	}
	if changed := parse(fmt.Sprintf(manifest, "web", "app:2")); changed.UID == p.UID {
		t.Error("a changed manifest is the same pod")
	}
	negative := strings.Replace(fmt.Sprintf(manifest, "web", "app:1"), "spec: {", "spec: {terminationGracePeriodSeconds: -5, ", 1)
	if grace := *parse(negative).Spec.TerminationGracePeriodSeconds; grace != 1 {
		t.Errorf("a negative grace period becomes %d, want 1 as in the API", grace)
	}
	c := p.Spec.Containers[0]
	if p.Spec.RestartPolicy != corev1.RestartPolicyAlways || p.Spec.DNSPolicy != corev1.DNSClusterFirst || *p.Spec.TerminationGracePeriodSeconds != 30 ||
		c.ImagePullPolicy != corev1.PullIfNotPresent || c.TerminationMessagePath != "/dev/termination-log" {
		t.Errorf("defaults: %+v", p.Spec)
	}
}

func TestPullPolicy(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	for image, want := range map[string]corev1.PullPolicy{
		"app": corev1.PullAlways, "app:latest": corev1.PullAlways, "app:1": corev1.PullIfNotPresent, "host:5000/app": corev1.PullAlways,
		"app" + digest: corev1.PullIfNotPresent, "app:latest" + digest: corev1.PullIfNotPresent,
	} {
		if got := podinfo.PullPolicy(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}

// TestBadManifests: each is refused with the field that is wrong.
func TestBadManifests(t *testing.T) {
	spec := func(spec string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: " + spec + "\n"
	}
	with := func(more string) string { return spec("{containers: [{name: c, image: i" + more + "}]}") }
	tests := []struct{ name, text, want string }{
		{"no kind", "apiVersion: v1\n", "kind"},
		{"other kind", "apiVersion: v1\nkind: Service\n", "kind"},
		{"other version", "apiVersion: v2\nkind: Pod\n", "apiVersion"},
		{"unknown field", with(", comand: [x]"), `unknown field "spec.containers[0].comand"`},
		{"field twice", with(", name: d"), "name"},
		{"not YAML", "{", "document 1"},
		{"no name", "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: c, image: i}]}\n", "metadata.name"},
		{"bad name", strings.Replace(with(""), "name: a", "name: A_b", 1), "metadata.name"},
		{"copy of a mirror", strings.Replace(with(""), "name: a", "name: a, annotations: {kubernetes.io/config.mirror: x}", 1), "metadata.annotations[kubernetes.io/config.mirror]"},
		{"no containers", spec("{}"), "spec.containers"},
		{"no image", spec("{containers: [{name: c}]}"), "spec.containers[0].image"},
		{"same name twice", spec("{containers: [{name: c, image: i}, {name: c, image: i}]}"), "spec.containers[1].name"},
		{"restart policy", spec("{restartPolicy: Perhaps, containers: [{name: c, image: i}]}"), "spec.restartPolicy"},
		{"pull policy", with(", imagePullPolicy: Seldom"), "spec.containers[0].imagePullPolicy"},
		{"port", with(", ports: [{containerPort: 70000}]"), "spec.containers[0].ports[0].containerPort"},
		{"host port twice", with(", ports: [{containerPort: 1, hostPort: 8}, {containerPort: 2, hostPort: 8}]"), "ports[1].hostPort"},
		{"unknown volume", with(", volumeMounts: [{name: v, mountPath: /v}]"), "spec.containers[0].volumeMounts[0].name"},
		{"subPath", spec("{volumes: [{name: v}], containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v, subPath: ../x}]}]}"), "subPath"},
		{"scheduling gates", spec("{schedulingGates: [{name: g}], containers: [{name: c, image: i}]}"), "spec.schedulingGates"},
		{"host path", spec("{volumes: [{name: v, hostPath: {path: /a/../b}}], containers: [{name: c, image: i}]}"), "spec.volumes[0].hostPath.path"},
		{"request over limit", with(", resources: {requests: {cpu: 2}, limits: {cpu: 1}}"), "spec.containers[0].resources.requests[cpu]"},
		{"probe without handler", with(", livenessProbe: {periodSeconds: 1}"), "spec.containers[0].livenessProbe"},
		{"secret volume", spec("{volumes: [{name: v, secret: {secretName: s}}], containers: [{name: c, image: i}]}"), "spec.volumes[0].secret"},
		{"config map key", with(", env: [{name: E, valueFrom: {configMapKeyRef: {name: m, key: k}}}]"), "spec.containers[0].env[0].valueFrom"},
		{"service account", spec("{serviceAccountName: x, containers: [{name: c, image: i}]}"), "spec.serviceAccountName"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &Config{opts: Options{NodeName: "node"}}
			if pods, err := c.complete([]byte(tt.text), podinfo.SourceFile, "file:x"); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, error %v, want one that names %s", pods, err, tt.want)
			}
		})
	}
}

func TestManyInOne(t *testing.T) {
	text := "# nothing but a comment\n---\n" + fmt.Sprintf(manifest, "a", "i:1") + "---\n" +
		`{"apiVersion":"v1","kind":"PodList","items":[{"metadata":{"name":"b"},"spec":{"containers":[{"name":"c","image":"i:1"}]}}]}` + "\n---\n"
	pods, err := parseManifests([]byte(text))
	if err != nil || len(pods) != 2 {
		t.Errorf("%d pods, %v", len(pods), err)
	}
}

func FuzzParseManifests(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(manifest, "a", "i")))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{}]\n---\n{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &Config{opts: Options{NodeName: "node"}}
		pods, err := c.complete(data, podinfo.SourceFile, "file:x")
		if err != nil {
			return
		}
		for _, p := range pods {
			if p.Name == "" || p.UID == "" || len(p.Spec.Containers) == 0 {
				t.Errorf("an incomplete pod is accepted: %+v", p)
			}
		}
	})
}

// collector collects what a source sends.
func collector(ctx context.Context) (sink, func(t *testing.T, want ...string)) {
	sent := make(chan []string, 100)
	send := func(_ context.Context, pods []*corev1.Pod) {
		var names []string
		for _, p := range pods {
			names = append(names, p.Name)
		}
		slices.Sort(names)
		sent <- names
	}
	var last []string
	return send, func(t *testing.T, want ...string) {
		t.Helper()
		for {
			select {
			case last = <-sent:
				if slices.Equal(last, want) {
					return
				}
			case <-ctx.Done():
				t.Fatalf("the source never sent %q; its last set is %q", want, last)
			}
		}
	}
}

func TestFiles(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.yaml", fmt.Sprintf(manifest, "a", "i:1"))
	write(".hidden.yaml", fmt.Sprintf(manifest, "hidden", "i:1"))
	write("b.yaml~", fmt.Sprintf(manifest, "backup", "i:1"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := New(Options{NodeName: "n", ManifestPath: dir, FileCheckFrequency: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	send, expect := collector(ctx)
	running, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { c.watchFiles(running, send); close(done) }()
	expect(t, "a-n")
	write("b.yaml", fmt.Sprintf(manifest, "b", "i:1"))
	expect(t, "a-n", "b-n")
	write("b.yaml", "kind: Bad\n") // a bad edit ends nothing
	write("c.yaml", fmt.Sprintf(manifest, "c", "i:1"))
	expect(t, "a-n", "b-n", "c-n")
	if err := os.Remove(dir + "/b.yaml"); err != nil {
		t.Fatal(err)
	}
	expect(t, "a-n", "c-n")
	if err := os.Rename(dir+"/c.yaml", dir+"/c.swp"); err != nil {
		t.Fatal(err)
	}
	expect(t, "a-n")
	stop()
	<-done
}

func TestURL(t *testing.T) {
	var answer, requests atomic.Value
	answer.Store(func(w http.ResponseWriter) { fmt.Fprintf(w, manifest, "a", "i:1") })
	requests.Store("")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Store(r.Header.Get("X-Key") + r.Header.Get("If-None-Match"))
		answer.Load().(func(http.ResponseWriter))(w)
	}))
	defer server.Close()
	s, err := newURLSource(Options{NodeName: "n", ManifestURL: server.URL, ManifestURLHeader: http.Header{"x-key": {"k"}}, HTTPCheckFrequency: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.client.CloseIdleConnections()
	fetch := func(wantPods int, wantChanged bool, wantErr string) {
		t.Helper()
		pods, changed, err := s.fetch(t.Context())
		if len(pods) != wantPods || changed != wantChanged || (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%d pods, changed %v, error %v; want %d, %v, %q", len(pods), changed, err, wantPods, wantChanged, wantErr)
		}
	}
	fetch(1, true, "")
	if requests.Load() != "k" {
		t.Errorf("headers of the request: %q", requests.Load())
	}
	fetch(0, false, "") // the same again
	answer.Store(func(w http.ResponseWriter) { http.Error(w, "no", http.StatusBadGateway) })
	fetch(0, false, "502")
	answer.Store(func(w http.ResponseWriter) {})
	fetch(0, true, "") // nothing there is no pod
	answer.Store(func(w http.ResponseWriter) { fmt.Fprint(w, "kind: Bad") })
	fetch(0, false, "apiVersion")
	answer.Store(func(w http.ResponseWriter) {
		w.Header().Set("ETag", `"e"`)
		fmt.Fprint(w, "apiVersion: v1\nkind: PodList\nitems: []\n")
	})
	fetch(0, true, "")
	answer.Store(func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotModified) })
	fetch(0, false, "")
	if requests.Load() != `k"e"` {
		t.Errorf("headers of the conditional request: %q", requests.Load())
	}
	answer.Store(func(w http.ResponseWriter) {
		w.Header().Set("Location", "http://127.0.0.2:1/elsewhere")
		w.WriteHeader(http.StatusFound)
	})
	fetch(0, false, "redirect")
	answer.Store(func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, maxManifest+1)) })
	fetch(0, false, "larger than")
	for _, bad := range []string{"", "x", "ftp://a/b", "http://"} {
		if _, err := newURLSource(Options{ManifestURL: bad}); err == nil {
			t.Errorf("the URL %q is accepted", bad)
		}
	}
}

// TestRedirects: the headers are sent on to the same host only, and not in the clear if they were encrypted before.
func TestRedirects(t *testing.T) {
	request := func(url string) *http.Request {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, tt := range []struct {
		from, to string
		follow   bool
	}{
		{"https://a/x", "https://a/y", true},
		{"http://a/x", "http://a/y", true},
		{"http://a/x", "https://a/x", true},
		{"https://a/x", "http://a/x", false},
		{"https://a:8443/x", "http://a:8443/x", false},
		{"https://a/x", "https://b/x", false},
		{"https://a/x", "https://a:444/x", false},
	} {
		if err := checkRedirect(request(tt.to), []*http.Request{request(tt.from)}); (err == nil) != tt.follow {
			t.Errorf("from %s to %s: %v", tt.from, tt.to, err)
		}
	}
	// A whole way: the second step leads into the clear.
	err := checkRedirect(request("http://a/z"), []*http.Request{request("https://a/x"), request("https://a/y")})
	if err == nil {
		t.Error("the way of two steps is followed")
	}
}

// TestRedirectIntoTheClear: no request with the headers leaves by http.
func TestRedirectIntoTheClear(t *testing.T) {
	var inTheClear atomic.Bool
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+r.Host+"/clear", http.StatusFound)
	}))
	defer server.Close()
	s, err := newURLSource(Options{NodeName: "n", ManifestURL: server.URL, ManifestURLHeader: http.Header{"Authorization": {"secret"}}})
	if err != nil {
		t.Fatal(err)
	}
	transport := server.Client().Transport
	s.client.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme == "http" {
			inTheClear.Store(true)
		}
		return transport.RoundTrip(r)
	})
	if _, _, err := s.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "redirect") {
		t.Errorf("the answer: %v", err)
	}
	if inTheClear.Load() {
		t.Error("the headers were sent in the clear")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestManifestEvent: what is wrong with a manifest is told of the node as it is known now.
func TestManifestEvent(t *testing.T) {
	var about []*corev1.ObjectReference
	c, err := New(Options{NodeName: "n", ManifestPath: t.TempDir(), Events: told(func(object runtime.Object) {
		about = append(about, object.(*corev1.ObjectReference))
	})})
	if err != nil {
		t.Fatal(err)
	}
	c.manifestEvent("wrong")
	c.opts.Node = func() *corev1.ObjectReference { return &corev1.ObjectReference{Kind: "Node", Name: "n", UID: "uid"} }
	c.manifestEvent("wrong")
	if len(about) != 2 || about[0].Name != "n" || about[1].UID != "uid" {
		t.Errorf("told of %v", about)
	}
}

// told is a recorder that says what events are about.
type told func(runtime.Object)

func (f told) Event(object runtime.Object, _, _, _ string) { f(object) }

func (f told) Eventf(object runtime.Object, _, _, _ string, _ ...any) { f(object) }

func (f told) AnnotatedEventf(object runtime.Object, _ map[string]string, _, _, _ string, _ ...any) {
	f(object)
}
