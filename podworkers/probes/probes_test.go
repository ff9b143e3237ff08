package probes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func reading(id string, started time.Time) *cri.PodStatus {
	return &cri.PodStatus{UID: "u", IPs: []string{"127.0.0.1"}, Containers: []*cri.ContainerStatus{{
		ID: id, Name: "c", State: runtimeapi.ContainerState_CONTAINER_RUNNING, StartedAt: started,
	}}}
}

func podWith(set func(*corev1.Container)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	set(&pod.Spec.Containers[0])
	return pod
}

func execProbe(period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}},
		PeriodSeconds: period, FailureThreshold: failures, SuccessThreshold: 1, TimeoutSeconds: 1,
	}
}

// world is a container that can be made sick and be replaced, in a runtime that can be away.
type world struct {
	sick   atomic.Bool
	away   atomic.Bool
	now    atomic.Pointer[cri.PodStatus]
	probed atomic.Int32
}

func (w *world) manager() *Manager {
	return New(Options{
		Exec: func(context.Context, string, []string, time.Duration) ([]byte, int, error) {
			w.probed.Add(1)
			if w.away.Load() {
				return nil, 0, errors.New("the runtime is away")
			}
			if w.sick.Load() {
				return []byte("sick"), 1, nil
			}
			return nil, 0, nil
		},
		Observed: func(types.UID) (*cri.PodStatus, bool) { s := w.now.Load(); return s, s != nil },
		Events:   record.NewFakeRecorder(1000),
	})
}

func TestReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.now.Store(reading("1", time.Now()))
		m := w.manager()
		pod := podWith(func(c *corev1.Container) {
			c.ReadinessProbe = execProbe(10, 3)
			c.ReadinessProbe.InitialDelaySeconds = 5
		})
		m.Add(t.Context(), pod)
		m.Add(t.Context(), pod) // once is enough
		start := time.Now()
		if u := <-m.Results(); !u.Success || u.Kind != Readiness || u.ContainerID != "1" || time.Since(start) != 5*time.Second {
			t.Errorf("first verdict %+v after %v, want success after the initial delay", u, time.Since(start))
		}
		w.sick.Store(true)
		start = time.Now()
		if u := <-m.Results(); u.Success || time.Since(start) != 30*time.Second {
			t.Errorf("verdict %+v after %v, want failure at the third failed probe", u, time.Since(start))
		}
		w.sick.Store(false)
		if u := <-m.Results(); !u.Success {
			t.Errorf("verdict %+v", u)
		}
		w.now.Store(reading("2", time.Now().Add(-time.Minute))) // restarted: unready until probed
		if u := <-m.Results(); !u.Success || u.ContainerID != "2" {
			t.Errorf("verdict %+v on the new container", u)
		}
		if _, known := m.Get("1", Readiness); known {
			t.Error("the verdict on the container before is kept")
		}
		m.Remove("u")
		if _, known := m.Get("2", Readiness); known {
			t.Error("the verdict is kept after the pod went")
		}
	})
}

func TestLivenessHoldsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.sick.Store(true)
		w.now.Store(reading("1", time.Now()))
		m := w.manager()
		m.Add(t.Context(), podWith(func(c *corev1.Container) { c.LivenessProbe = execProbe(1, 2) }))
		if u := <-m.Results(); u.Success {
			t.Errorf("verdict %+v", u)
		}
		probed := w.probed.Load()
		time.Sleep(time.Minute)
		if w.probed.Load() != probed {
			t.Error("a container that is to be restarted is probed on")
		}
		w.sick.Store(false)
		w.now.Store(reading("2", time.Now()))
		if u := <-m.Results(); !u.Success || u.ContainerID != "2" {
			t.Errorf("verdict %+v on the new container", u)
		}
		m.Remove("u")
	})
}

// TestRuntimeAway: probes that cannot be made, as while the runtime is started again, are no verdict: no container is restarted for
// that, and none that was ready becomes unready. Failures before and after them are in a row.
func TestRuntimeAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.now.Store(reading("1", time.Now()))
		m := w.manager()
		m.Add(t.Context(), podWith(func(c *corev1.Container) {
			c.LivenessProbe, c.ReadinessProbe = execProbe(10, 3), execProbe(10, 3)
		}))
		for range 2 {
			if u := <-m.Results(); !u.Success {
				t.Errorf("verdict %+v", u)
			}
		}
		w.sick.Store(true)
		time.Sleep(15 * time.Second) // one probe of each fails
		w.away.Store(true)
		time.Sleep(5 * time.Minute)
		for _, kind := range []Kind{Liveness, Readiness} {
			if ok, known := m.Get("1", kind); !ok || !known {
				t.Errorf("%s is %v, known %v, after probes that could not be made", kind, ok, known)
			}
		}
		w.away.Store(false)
		time.Sleep(20 * time.Second)
		for _, kind := range []Kind{Liveness, Readiness} {
			if ok, known := m.Get("1", kind); ok || !known {
				t.Errorf("%s is %v, known %v, after three failures", kind, ok, known)
			}
		}
		m.Remove("u")
	})
}

// TestStartupFirst: the other probes wait for the startup probe, and start at once when it passes.
func TestStartupFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.sick.Store(true)
		w.now.Store(reading("1", time.Now()))
		m := w.manager()
		m.Add(t.Context(), podWith(func(c *corev1.Container) {
			c.StartupProbe, c.ReadinessProbe = execProbe(1, 100), execProbe(60, 1)
		}))
		time.Sleep(10*time.Second + time.Millisecond)
		if _, known := m.Get("1", Readiness); known {
			t.Error("readiness was probed before startup")
		}
		w.sick.Store(false)
		start := time.Now()
		for range 2 {
			if u := <-m.Results(); !u.Success {
				t.Errorf("verdict %+v", u)
			}
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("readiness followed startup after %v", took)
		}
		m.StopLivenessAndStartup("u")
		if ok, known := m.Get("1", Readiness); !ok || !known {
			t.Error("readiness is forgotten with startup")
		}
		m.Remove("u")
	})
}

func TestSeed(t *testing.T) {
	m := (&world{}).manager()
	yes, no := true, false
	state := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	m.Seed(&corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
		{ContainerID: "containerd://a", Ready: true, Started: &yes, State: state}, {ContainerID: "containerd://b", Started: &no, State: state}, {ContainerID: "containerd://c", Ready: true},
	}}})
	for id, want := range map[string]bool{"a": true, "b": false, "c": false} {
		if ok, known := m.Get(id, Readiness); ok != want || known != want {
			t.Errorf("%s is ready: %v (known %v), want %v", id, ok, known, want)
		}
	}
}

// TestHost: a pod is probed at the address that its status has.
func TestHost(t *testing.T) {
	m := New(Options{HostIPs: func() []string { return []string{"fd02::1", "192.168.0.1"} }})
	pod := podWith(func(*corev1.Container) {})
	w := &worker{manager: m, pod: pod}
	if got := w.host(&cri.PodStatus{IPs: []string{"10.0.0.5", "fd00::5"}}); got != "fd00::5" {
		t.Errorf("the pod is probed at %s", got)
	}
	pod.Spec.HostNetwork = true
	if got := w.host(&cri.PodStatus{}); got != "fd02::1" {
		t.Errorf("a pod on the node's network is probed at %s", got)
	}
}

func TestHandlers(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			if r.Header.Get("X-Probe") != "yes" || r.Host != "named" || !strings.HasPrefix(r.UserAgent(), "kube-probe/") {
				w.WriteHeader(http.StatusTeapot)
			}
		case "/away":
			http.Redirect(w, r, "http://localhost.invalid/x", http.StatusFound)
		case "/here":
			http.Redirect(w, r, "/gone", http.StatusFound)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := free.Addr().(*net.TCPAddr).Port
	free.Close()
	get := func(path string) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("web"), HTTPHeaders: []corev1.HTTPHeader{{Name: "X-Probe", Value: "yes"}, {Name: "Host", Value: "named"}}}}
	}
	tcp := func(port int) corev1.ProbeHandler {
		return corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(int32(port))}}
	}
	for _, tt := range []struct {
		name    string
		handler corev1.ProbeHandler
		want    result
		output  string
		err     bool
	}{
		{"http", get("/ok"), success, "", false},
		{"http, not found", get("/no"), failure, "HTTP probe failed with statuscode: 404", false},
		{"http, followed redirect", get("/here"), failure, "statuscode: 404", false},
		{"http, redirect to another host", get("/away"), warning, "Probe terminated redirects", false},
		{"http, unknown port", corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("none")}}, failure, "", true},
		{"tcp", tcp(port), success, "", false},
		{"tcp, nobody there", tcp(closed), failure, "refused", false},
		{"grpc, nobody there", corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(closed)}}, failure, fmt.Sprintf(`timeout: failed to connect service "127.0.0.1:%d" within 2s: context deadline exceeded`, closed), false},
		{"grpc, no server of it", corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port)}}, failure, "timeout: failed to connect service", false},
		{"exec that cannot be made", corev1.ProbeHandler{Exec: &corev1.ExecAction{}}, failure, "", true},
		{"nothing", corev1.ProbeHandler{}, failure, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := podWith(func(c *corev1.Container) { c.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}} })
			m := New(Options{Exec: func(context.Context, string, []string, time.Duration) ([]byte, int, error) {
				return nil, 0, errors.New("no runtime")
			}})
			w := &worker{manager: m, pod: pod, container: &pod.Spec.Containers[0], probe: &corev1.Probe{ProbeHandler: tt.handler, TimeoutSeconds: 2}}
			got := w.try(t.Context(), reading("1", time.Now()))
			if got.result != tt.want || !strings.Contains(got.output, tt.output) || (got.err != nil) != tt.err {
				t.Errorf("outcome %+v, want %v with %q, error %v", got, tt.want, tt.output, tt.err)
			}
		})
	}
}
