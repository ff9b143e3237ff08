package runtime

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/config/pod/podtest"
	"minikubelet/e2e/crifake"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/spec"
)

// start brings the pod up; every container of it runs.
func (b *bench) start(t *testing.T, pod *corev1.Pod) *cri.PodStatus {
	t.Helper()
	b.mustSync(t, pod)
	if got := len(b.seen(pod).Running()); got != len(pod.Spec.Containers)+len(pod.Spec.InitContainers) {
		t.Fatalf("%d run: %s", got, state(b.seen(pod)))
	}
	b.fake.ResetCalls()
	return b.seen(pod)
}

// stopped returns when, since start, and with how much grace each container was stopped.
func stopped(b *bench, observed *cri.PodStatus, start time.Time) string {
	var out []string
	for _, r := range crifake.Requests[*runtimeapi.StopContainerRequest](b.fake) {
		out = append(out, fmt.Sprintf("%s grace %d", observed.ContainerByID(r.ContainerId).Name, r.Timeout))
	}
	slices.Sort(out)
	return strings.Join(out, ", ") + fmt.Sprintf(", took %v", time.Since(start))
}

func preStop(sleep int64) *corev1.Lifecycle {
	return &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: sleep}}}
}

func TestKillPod(t *testing.T) {
	for name, tc := range map[string]struct {
		pod    string
		change func(*corev1.Pod)
		grace  *int64
		want   string
	}{
		"spec's grace period":        {pod: "c:a c:b", want: "a grace 30, b grace 30, took 0s"},
		"deletion's grace period":    {pod: "c:a", change: func(p *corev1.Pod) { p.DeletionGracePeriodSeconds = new(int64(9)) }, want: "a grace 9, took 0s"},
		"override":                   {pod: "c:a", grace: new(int64(4)), want: "a grace 4, took 0s"},
		"no grace at all":            {pod: "c:a", grace: new(int64(0)), change: func(p *corev1.Pod) { p.Spec.Containers[0].Lifecycle = preStop(9) }, want: "a grace 2, took 0s"},
		"preStop eats into it":       {pod: "c:a c:b", change: func(p *corev1.Pod) { p.Spec.Containers[0].Lifecycle = preStop(10) }, want: "a grace 20, b grace 30, took 10s"},
		"preStop longer than it":     {pod: "c:a", change: func(p *corev1.Pod) { p.Spec.Containers[0].Lifecycle = preStop(90) }, want: "a grace 2, took 30s"},
		"sidecar waits for the rest": {pod: "s:s c:a", change: func(p *corev1.Pod) { p.Spec.Containers[0].Lifecycle = preStop(5) }, want: "a grace 25, s grace 25, took 5s"},
		"sidecars in reverse":        {pod: "s:s s:r c:a", change: func(p *corev1.Pod) { p.Spec.InitContainers[1].Lifecycle = preStop(7) }, want: "a grace 30, r grace 23, s grace 23, took 7s"},
		// 10,000,000,000 s are more nanoseconds than a number has room for.
		"spec's is for ever":          {pod: "c:a", change: func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(1e10)) }, want: "a grace 9223372036, took 0s"},
		"deletion's is for ever":      {pod: "c:a", change: func(p *corev1.Pod) { p.DeletionGracePeriodSeconds = new(int64(1e10)) }, want: "a grace 9223372036, took 0s"},
		"override is for ever":        {pod: "c:a", grace: new(int64(1e10)), want: "a grace 9223372036, took 0s"},
		"preStop is for ever":         {pod: "c:a", change: func(p *corev1.Pod) { p.Spec.Containers[0].Lifecycle = preStop(1e10) }, want: "a grace 2, took 30s"},
		"no sidecar waits for longer": {pod: "s:s c:a", change: func(p *corev1.Pod) { p.Spec.Containers[0].Lifecycle = preStop(90) }, want: "a grace 2, s grace 2, took 30s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, nil)
				pod := podtest.Pod(tc.pod, corev1.RestartPolicyAlways)
				pod.Spec.TerminationGracePeriodSeconds = new(int64(30))
				if tc.change != nil {
					tc.change(pod)
				}
				observed, start := b.start(t, pod), time.Now()
				if err := b.KillPod(t.Context(), pod, observed, tc.grace); err != nil {
					t.Fatal(err)
				}
				if got := stopped(b, observed, start); got != tc.want {
					t.Errorf("%s\nwant %s", got, tc.want)
				}
				after, err := cri.ReadPod(t.Context(), b.opts.CRI, pod.UID, nil)
				if err != nil || !after.Gone() {
					t.Errorf("left: %s %v", state(after), err)
				}
				wantEvents(t, b, "Normal Killing spec.containers{a}: Stopping container a")
				if strings.Contains(b.events.all(), eventFailedPreStopHook) {
					t.Error("a sleep that the grace period cut short has not failed")
				}
				if err := b.KillPod(t.Context(), pod, after, tc.grace); err != nil {
					t.Errorf("again: %v", err)
				}
			})
		})
	}
}

// TestKillPodShortened cancels a kill and repeats it with less grace: the hook runs once, the event comes once.
func TestKillPodShortened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
		pod.Spec.Containers[0].Lifecycle = preStop(60)
		observed := b.start(t, pod)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := b.KillPod(ctx, pod, observed, new(int64(100))); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("cancelled: %v", err)
		}
		start := time.Now()
		if err := b.KillPod(t.Context(), pod, observed, new(int64(3))); err != nil {
			t.Fatal(err)
		}
		if got := stopped(b, observed, start); got != "a grace 3, took 0s" {
			t.Error(got)
		}
		if n := strings.Count(b.events.all(), "Killing"); n != 1 {
			t.Errorf("%d Killing events", n)
		}
		if strings.Contains(b.events.all(), eventFailedPreStopHook) {
			t.Error("an interrupted hook has not failed")
		}
	})
}

func TestKillPodFailuresAndOrphans(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a c:b", corev1.RestartPolicyAlways)
	pod.Spec.TerminationGracePeriodSeconds = new(int64(11))
	pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"bye"}}}}
	b.fake.OnExec = func(context.Context, string, []string) (string, int32) { return "secret", 1 }
	observed := b.start(t, pod)
	b.fake.FailNext("StopContainer", errors.New("stuck"))
	orphan := spec.OrphanPod(observed)
	if err := b.KillPod(t.Context(), orphan, observed, nil); err == nil || !strings.Contains(err.Error(), "stuck") || !strings.Contains(err.Error(), "ns/pod") {
		t.Errorf("error %v", err)
	}
	if n := b.fake.Count("StopPodSandbox"); n != 1 {
		t.Errorf("a container that does not stop keeps the sandbox: %d", n)
	}
	for _, r := range crifake.Requests[*runtimeapi.StopContainerRequest](b.fake) {
		if r.Timeout != 11 {
			t.Errorf("grace %d", r.Timeout)
		}
	}
	wantEvents(t, b, "Warning FailedPreStopHook spec.containers{a}: PreStopHook failed")
	if strings.Contains(b.events.all(), "secret") {
		t.Error("the hook's output is in an event")
	}
	b.fake.ResetCalls()
	// What failed is looked into, not believed from the reading of before.
	observed, err := b.opts.Cache.Current(t.Context(), orphan)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.KillPod(t.Context(), orphan, observed, nil); err != nil {
		t.Error(err)
	}
	if b.fake.Count("ListContainers") != 1 || b.fake.Count("StopContainer") != 0 {
		t.Errorf("calls %v", b.fake.Calls())
	}
}

func TestPostStart(t *testing.T) {
	b := newBench(t, nil)
	pod := podtest.Pod("c:a", corev1.RestartPolicyNever)
	pod.Spec.TerminationGracePeriodSeconds = new(int64(3))
	pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hi", "there"}}}}
	b.fake.OnExec = func(context.Context, string, []string) (string, int32) { return "no", 7 }
	result, err := b.sync(t, pod, inputs{})
	want := Failure{ReasonPostStartHook, `Exec lifecycle hook ([hi there]) for Container "a" in Pod "pod_ns(uid-1)" failed - error: command 'hi there' exited with 7, message: "no"`}
	if err == nil || result.Containers["a"] != want {
		t.Errorf("%+v %v", result.Containers["a"], err)
	}
	if got := state(b.seen(pod)); got != "box0- a/0:exit143" {
		t.Errorf("%q", got)
	}
	wantEvents(t, b, "Warning FailedPostStartHook spec.containers{a}: PostStartHook failed", "Normal Killing spec.containers{a}: FailedPostStartHook")
}

func TestHooks(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.URL.String()+" "+r.UserAgent()+" "+r.Header.Get("X-Mine")+r.Header.Get("Authorization"))
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
			return
		}
		w.WriteHeader(http.StatusTeapot) // any answer is success
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	portOf := func(server *httptest.Server) int32 {
		u, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		port, err := strconv.Atoi(u.Port())
		if err != nil {
			t.Fatal(err)
		}
		return int32(port)
	}
	b := newBench(t, nil)
	pod := podtest.Pod("c:a", "")
	container := &pod.Spec.Containers[0]
	container.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: portOf(plain)}}
	get := func(change func(*corev1.HTTPGetAction)) *corev1.LifecycleHandler {
		action := &corev1.HTTPGetAction{Path: "/x?y=z", Port: intstr.FromString("web"), Scheme: corev1.URISchemeHTTP}
		if change != nil {
			change(action)
		}
		return &corev1.LifecycleHandler{HTTPGet: action}
	}
	for _, tc := range []struct {
		name string
		hook *corev1.LifecycleHandler
		ips  []string
		seen string
		err  string
	}{
		{"http", get(nil), []string{"127.0.0.1"}, "/x?y=z kube-lifecycle/1.37 ", ""},
		{"header", get(func(a *corev1.HTTPGetAction) { a.HTTPHeaders = []corev1.HTTPHeader{{Name: "X-Mine", Value: "v"}} }), []string{"127.0.0.1"}, "/x?y=z kube-lifecycle/1.37 v", ""},
		{"https", get(func(a *corev1.HTTPGetAction) {
			a.Port, a.Scheme = intstr.FromInt32(portOf(secure)), corev1.URISchemeHTTPS
		}), []string{"127.0.0.1"}, "/x?y=z kube-lifecycle/1.37 ", ""},
		{"https to a plain server", get(func(a *corev1.HTTPGetAction) {
			a.Scheme, a.HTTPHeaders = corev1.URISchemeHTTPS, []corev1.HTTPHeader{{Name: "Authorization", Value: "secret"}}
		}), []string{"127.0.0.1"}, "/x?y=z kube-lifecycle/1.37 ", ""},
		{"redirect elsewhere is not followed", get(func(a *corev1.HTTPGetAction) { a.Path = "/away" }), []string{"127.0.0.1"}, "/away kube-lifecycle/1.37 ", ""},
		{"own host", get(func(a *corev1.HTTPGetAction) { a.Host = "127.0.0.1" }), nil, "/x?y=z kube-lifecycle/1.37 ", ""},
		{"no address", get(nil), nil, "", "failed to find networking container"},
		{"unknown port", get(func(a *corev1.HTTPGetAction) { a.Port = intstr.FromString("nope") }), []string{"127.0.0.1"}, "", `port "nope" not found`},
		{"no port", get(func(a *corev1.HTTPGetAction) { a.Port = intstr.FromInt32(0) }), []string{"127.0.0.1"}, "", "invalid port number: 0"},
		{"tcp", &corev1.LifecycleHandler{TCPSocket: &corev1.TCPSocketAction{}}, nil, "", "invalid handler"},
		{"nothing", &corev1.LifecycleHandler{}, nil, "", "invalid handler"},
	} {
		mu.Lock()
		seen = nil
		mu.Unlock()
		message, err := b.runHook(t.Context(), pod, container, "id", tc.ips, tc.hook)
		if (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(message, tc.err)) {
			t.Errorf("%s: %q %v", tc.name, message, err)
		}
		mu.Lock()
		if got := strings.Join(seen, ";"); got != tc.seen {
			t.Errorf("%s: server saw %q, want %q", tc.name, got, tc.seen)
		}
		mu.Unlock()
	}
	wantEvents(t, b, "Warning LifecycleHTTPFallback : request to HTTPS lifecycle hook")
}
