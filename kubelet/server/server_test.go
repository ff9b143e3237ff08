package server

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"k8s.io/klog/v2"

	"minikubelet/runtime/cri"
)

func TestPods(t *testing.T) {
	f := newFixture(t, nil, nil)
	root := f.asRoot(t)
	for path, want := range map[string][]string{"/pods": {"app", "other"}, "/runningpods/": {"app"}} {
		_, body := f.do(t, root, http.MethodGet, path)
		var list corev1.PodList
		if err := json.Unmarshal([]byte(body), &list); err != nil || list.Kind != "PodList" || len(list.Items) != 1 {
			t.Fatalf("%s: %v, %s", path, err, body)
		}
		var containers []string
		for _, c := range list.Items[0].Spec.Containers {
			containers = append(containers, c.Name)
		}
		if pod := list.Items[0]; pod.Name != "web" || pod.UID != "u1" || !reflect.DeepEqual(containers, want) {
			t.Errorf("%s: %s", path, body)
		}
	}
}

// TestContainerLogs: which attempt's log is meant, and what is said where there is none.
func TestContainerLogs(t *testing.T) {
	f := newFixture(t, nil, nil)
	root := f.asRoot(t)
	container := func(id string, state runtimeapi.ContainerState) *cri.ContainerStatus {
		path := filepath.Join(f.logDir(), "app", id+".log")
		writeFile(t, path, "2026-01-01T00:00:00Z stdout F "+id+"\n")
		return &cri.ContainerStatus{ID: id, Name: "app", State: state, LogPath: path}
	}
	running, exited, created := runtimeapi.ContainerState_CONTAINER_RUNNING, runtimeapi.ContainerState_CONTAINER_EXITED, runtimeapi.ContainerState_CONTAINER_CREATED
	waiting := []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}
	waits := func(reason string) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}}
	}
	ended := []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: "gone"}}}}
	endedOnce := waits("ImagePullBackOff")
	endedOnce[0].LastTerminationState = ended[0].State
	without := func(why string) string { return "400 container \"app\" in pod \"web\" is " + why }
	const none = "400 previous terminated container \"app\" in pod \"web\" not found"
	for name, tt := range map[string]struct {
		containers    []*cri.ContainerStatus
		status        []corev1.ContainerStatus
		now, previous string
	}{
		"running":          {[]*cri.ContainerStatus{container("2", running), container("1", exited)}, nil, "200 2\n", "200 1\n"},
		"first":            {[]*cri.ContainerStatus{container("2", running)}, nil, "200 2\n", none},
		"ended":            {[]*cri.ContainerStatus{container("2", exited), container("1", exited)}, nil, "200 2\n", "200 1\n"},
		"ended, the first": {[]*cri.ContainerStatus{container("2", exited)}, nil, "200 2\n", none},
		"waiting":          {[]*cri.ContainerStatus{container("2", exited), container("1", exited)}, waiting, "200 2\n", "200 2\n"},
		"started since":    {[]*cri.ContainerStatus{container("2", running), container("1", exited)}, waiting, "200 2\n", "200 1\n"},
		"created":          {[]*cri.ContainerStatus{container("2", created), container("1", exited)}, waiting, "200 1\n", "200 1\n"},
		"not pulled":       {nil, waits("ErrImagePull"), without("waiting to start: image can't be pulled"), none},
		"pulled later":     {nil, waits("ImagePullBackOff"), without("waiting to start: trying and failing to pull image"), none},
		"not started":      {nil, waits("ContainerCreating"), without("waiting to start: ContainerCreating"), none},
		"removed":          {nil, ended, without("terminated"), none},
		"removed, waiting": {nil, endedOnce, without("terminated"), none},
		"no state":         {nil, []corev1.ContainerStatus{{Name: "app"}}, without("waiting to start - no logs yet"), none},
		"nothing known":    {nil, nil, without("not available"), none},
	} {
		f.observed.Containers, f.pod.Status.ContainerStatuses = tt.containers, tt.status
		for query, want := range map[string]string{"": tt.now, "?previous=true": tt.previous} {
			code, body := f.do(t, root, http.MethodGet, "/containerLogs/default/web/app"+query)
			if got := fmt.Sprint(code, " ", body); got != want {
				t.Errorf("%s%s: %q, want %q", name, query, got, want)
			}
		}
	}
	f.observed.Containers = []*cri.ContainerStatus{container("2", running)}
	f.observed.Containers[0].LogPath = "/etc/passwd"
	for path, want := range map[string]int{
		"/containerLogs/default/web/none": 404, "/containerLogs/default/none/app": 404, "/containerLogs/default/web/app?tailLines=x": 400,
		"/containerLogs/default/web/app?tailLines=-1": 422, "/containerLogs/default/web/app": 500,
	} {
		if code, body := f.do(t, root, http.MethodGet, path); code != want || strings.Contains(body, "root:") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	// kubectl shows what is said of a bad request, and of nothing that is not found.
	f.observed.Containers[0].LogPath = filepath.Join(f.logDir(), "app", "9.log")
	if code, body := f.do(t, root, http.MethodGet, "/containerLogs/default/web/app"); code != http.StatusBadRequest || !strings.Contains(body, "9.log") {
		t.Errorf("without the file: %d %s", code, body)
	}
}

func TestLogRequest(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	for query, want := range map[string]string{
		"":                                    "{<nil> <nil> 0001-01-01 00:00:00 +0000 UTC false  false} false",
		"tailLines=3&limitBytes=5":            "{3 5 0001-01-01 00:00:00 +0000 UTC false  false} false",
		"tail=3":                              "{3 <nil> 0001-01-01 00:00:00 +0000 UTC false  false} false",
		"tail=all":                            "{<nil> <nil> 0001-01-01 00:00:00 +0000 UTC false  false} false",
		"follow=true&previous=1&timestamps=t": "{<nil> <nil> 0001-01-01 00:00:00 +0000 UTC true  true} true",
		"sinceSeconds=60":                     "{<nil> <nil> 2026-04-30 23:59:00 +0000 UTC false  false} false",
		"sinceTime=2026-04-01T00:00:00Z":      "{<nil> <nil> 2026-04-01 00:00:00 +0000 UTC false  false} false",
		"stream=Stdout":                       "{<nil> <nil> 0001-01-01 00:00:00 +0000 UTC false stdout false} false",
		"stream=Stderr":                       "{<nil> <nil> 0001-01-01 00:00:00 +0000 UTC false stderr false} false",
		"stream=All&tailLines=0":              "{0 <nil> 0001-01-01 00:00:00 +0000 UTC false  false} false",
		"tailLines=-1":                        "error", "tailLines=x": "error", "limitBytes=0": "error", "sinceSeconds=0": "error",
		"follow=maybe&previous":                    "{<nil> <nil> 0001-01-01 00:00:00 +0000 UTC false  true} true", // as upstream's: all but these
		"follow=False&previous=0&timestamps=false": "{<nil> <nil> 0001-01-01 00:00:00 +0000 UTC false  false} false",
		"sinceTime=yesterday":                      "error", "sinceSeconds=1&sinceTime=2026-04-01T00:00:00Z": "error", "stream=stdlog": "error", "stream=Stdout&tailLines=1": "error",
	} {
		values, err := http.NewRequest(http.MethodGet, "/?"+query, http.NoBody)
		must(t, err)
		r, previous, err := logRequest(values.URL.Query(), now)
		text := func(n *int64) any {
			if n == nil {
				return n
			}
			return *n
		}
		got := fmt.Sprint("{", text(r.Tail), " ", text(r.Limit), " ", r.Since, " ", r.Timestamps, " ", r.Stream, " ", r.Follow, "} ", previous)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s, %v; want %s", query, got, err, want)
		}
	}
}

// TestFollowedLog: it comes as it is written, a client that goes frees what it held, and the server does not wait.
func TestFollowedLog(t *testing.T) {
	f := newFixture(t, nil, nil)
	path := f.observed.Containers[0].LogPath
	writeFile(t, path, "2026-01-01T00:00:00Z stdout F a\n")
	root := f.asRoot(t)
	for _, end := range []func(io.Closer){func(body io.Closer) { _ = body.Close() }, func(io.Closer) { f.stop() }} {
		answer, err := root.Get("https://" + f.Addr() + "/containerLogs/default/web/app?follow=true&tailLines=1")
		must(t, err)
		line, err := bufio.NewReader(answer.Body).ReadString('\n')
		if err != nil || line != "a\n" {
			t.Fatalf("%q, %v", line, err)
		}
		if n := f.logs.held(); n != 1 {
			t.Errorf("%d streams while one log is followed", n)
		}
		end(answer.Body)
		for start := time.Now(); f.logs.held() != 0; time.Sleep(time.Millisecond) {
			if time.Since(start) > 10*time.Second {
				t.Fatal("the log is followed for nobody")
			}
		}
		_ = answer.Body.Close()
	}
}

// TestSlowClient: a client that does not read its log is given up after the idle timeout, and its place is free.
func TestSlowClient(t *testing.T) {
	f := newFixture(t, map[string]any{"streamingConnectionIdleTimeout": "300ms"}, nil)
	writeFile(t, f.observed.Containers[0].LogPath, strings.Repeat("2026-01-01T00:00:00Z stdout F "+strings.Repeat("x", 1000)+"\n", 30000))
	conn, err := tls.Dial("tcp", f.Addr(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*f.ca.issue(t, pkix.Name{CommonName: "root"})}}) //nolint:gosec // see TestServingCertificate
	must(t, err)
	defer conn.Close()
	fmt.Fprint(conn, "GET /containerLogs/default/web/app HTTP/1.1\r\nHost: node\r\n\r\n")
	must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err = conn.Read(make([]byte, 1))
	must(t, err)
	for start := time.Now(); f.logs.held() != 0; time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("a client that reads nothing holds its place")
		}
	}
}

// TestSystemLogs: files and directories, and nothing outside.
func TestSystemLogs(t *testing.T) {
	f := newFixture(t, nil, nil)
	f.root = t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	writeFile(t, outside, "s3cret")
	writeFile(t, filepath.Join(f.root, "sys log"), "<b>hello</b>")
	writeFile(t, filepath.Join(f.root, "sub", "x.log"), "world")
	must(t, os.Symlink(outside, filepath.Join(f.root, "link")), os.Symlink(filepath.Dir(outside), filepath.Join(f.root, "dirlink")),
		os.Symlink("sub/x.log", filepath.Join(f.root, "inside")), unix.Mkfifo(filepath.Join(f.root, "pipe"), 0o644))
	// As the kubelet links logs of containers: two links to follow, one of them a directory on the way.
	writeFile(t, filepath.Join(f.root, "pods", "ns_pod_uid", "app", "0.log"), "contained")
	links := filepath.Join(f.root, "sub", "links")
	must(t, os.Mkdir(links, 0o755),
		os.Symlink(filepath.Join(f.root, "pods", "ns_pod_uid"), filepath.Join(links, "pod")),
		os.Symlink(filepath.Join(links, "pod", "app", "0.log"), filepath.Join(links, "c.log")),
		os.Symlink("../../pods/../sub/links/c.log", filepath.Join(links, "around.log")),
		os.Symlink(f.root+"/../secret", filepath.Join(links, "up")), os.Symlink("../../../secret", filepath.Join(links, "above")),
		os.Symlink(f.root+"-not/secret", filepath.Join(links, "beside")), os.Symlink(links+"/loop", filepath.Join(links, "loop")),
		os.Symlink(f.root+"/gone", filepath.Join(links, "dangling")), os.Symlink(outside, filepath.Join(links, "out")),
		os.Symlink(filepath.Join(links, "out"), filepath.Join(links, "out2")))
	root := f.asRoot(t)
	for path, want := range map[string]string{
		"/logs/sys%20log": "200 <b>hello</b>", "/logs/sub/x.log": "200 world", "/logs/inside": "200 world",
		"/logs/link": "403", "/logs/dirlink/secret": "403", "/logs/dirlink/": "403", "/logs/pipe": "403", "/logs/none": "404", "/logs/sub/x.log/y": "404",
		"/logs/..%2f..%2fetc/passwd": "404", "/logs/%2fetc/passwd": "404", "/logs/sub": "301",
		"/logs/sub/links/c.log": "200 contained", "/logs/sub/links/around.log": "200 contained", "/logs/sub/links/pod/app/0.log": "200 contained",
		"/logs/sub/links/up": "403", "/logs/sub/links/above": "403", "/logs/sub/links/beside": "403", "/logs/sub/links/loop": "403",
		"/logs/sub/links/out": "403", "/logs/sub/links/out2": "403", "/logs/sub/links/dangling": "404",
		"/logs/":     "200 <!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n<a href=\"dirlink\">dirlink</a>\n<a href=\"inside\">inside</a>\n<a href=\"link\">link</a>\n<a href=\"pipe\">pipe</a>\n<a href=\"pods/\">pods/</a>\n<a href=\"sub/\">sub/</a>\n<a href=\"sys%20log\">sys log</a>\n</pre>\n",
		"/logs/sub/": "200 <!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n<a href=\"links/\">links/</a>\n<a href=\"x.log\">x.log</a>\n</pre>\n",
	} {
		code, body := f.do(t, root, http.MethodGet, path)
		got := fmt.Sprint(code, " ", body)
		if !strings.HasPrefix(got, want) || strings.Contains(body, "s3cret") {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// TestBounds: when all places of a kind are taken, requests of that kind are told so and others are answered.
func TestBounds(t *testing.T) {
	f := newFixture(t, nil, nil)
	root := f.asRoot(t)
	kinds := map[string]*shares{
		"/pods": f.requests, "/containerLogs/default/web/app": f.logs, "/logs/": f.logs, "/debug/pprof/": f.requests,
		"/exec/default/web/app": f.commands, "/attach/default/web/app": f.commands, "/exec/default/web/u1/app": f.commands,
		"/portForward/default/web": f.forwards, "/portForward/default/web/u1": f.forwards,
	}
	for _, full := range []*shares{f.requests, f.logs, f.commands, f.forwards} {
		var leave []func()
		for {
			one, ok := full.take()
			if !ok {
				break
			}
			leave = append(leave, one)
		}
		for path, kind := range kinds {
			if code, _ := f.do(t, root, http.MethodGet, path); (code == http.StatusTooManyRequests) != (kind == full) {
				t.Errorf("%s with another kind full: %v: %d", path, kind != full, code)
			}
		}
		leave[0]()
		leave[0]() // counts once
		if _, ok := full.take(); !ok {
			t.Error("no place after one was left")
		}
		if _, ok := full.take(); ok {
			t.Error("two places after one was left")
		}
		for _, one := range leave {
			one()
		}
	}
	if code, _ := f.do(t, root, http.MethodGet, "/pods", "X-Big", strings.Repeat("x", 2*maxHeader)); code != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("big headers: %d", code)
	}
	big, err := root.Post("https://"+f.Addr()+"/run/default/web/app?cmd=id", "text/plain", bytes.NewReader(make([]byte, 8*maxBody)))
	if err == nil {
		_ = big.Body.Close()
		if big.StatusCode != http.StatusRequestEntityTooLarge || !big.Close {
			t.Errorf("a request with more than it may bring: %d, connection closed: %v", big.StatusCode, big.Close)
		}
	} else if !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) { // closed before the answer was read
		t.Error(err)
	}
	stranger := f.client(t, nil)
	answer, err := stranger.Get("https://" + f.Addr() + "/pods")
	must(t, err)
	_ = answer.Body.Close()
	if !answer.Close {
		t.Error("a stranger's connection is kept")
	}
}

// TestReadOnlyPort: only what upstream shows there, without credentials.
func TestReadOnlyPort(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port := free.Addr().(*net.TCPAddr).Port
	must(t, free.Close())
	f := newFixture(t, map[string]any{"readOnlyPort": port}, nil)
	for path, want := range map[string]int{
		"/healthz": 200, "/pods": 200, "/metrics": 200, "/metrics/cadvisor": 200, "/stats/summary": 200,
		"/configz": 404, "/runningpods/": 404, "/exec/default/web/app": 404, "/containerLogs/default/web/app": 404, "/logs/": 404, "/run/default/web/app": 404, "/debug/pprof/": 404,
	} {
		answer, err := http.Get(fmt.Sprintf("http://%s%s", f.readOnly.Addr(), path))
		must(t, err)
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, answer.StatusCode, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestListenErrors: they name the setting.
func TestListenErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "ca.crt"), string(newAuthority(t).pem))
	for want, change := range map[string]func(*Options){
		"listen for requests (address, port)": func(o *Options) { o.Settings.Port = int32(taken.Addr().(*net.TCPAddr).Port) },
		"authentication.x509.clientCAFile":    func(o *Options) { o.Settings.Authentication.X509.ClientCAFile = "/none" },
		"tlsCertFile, tlsPrivateKeyFile":      func(o *Options) { o.Settings.TLSCertFile, o.Settings.TLSPrivateKeyFile = "/none", "/none" },
	} {
		o := Options{Settings: load(t, dir, nil, "--kubeconfig=/none")}
		o.Settings.Address, o.Settings.Port = "127.0.0.1", 0
		change(&o)
		if _, err := Listen(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s in it", err, want)
		}
	}
}

// TestVerbosity: what is logged changes by request, if that is switched on.
func TestVerbosity(t *testing.T) {
	f := newFixture(t, map[string]any{"enableDebugFlagsHandler": true, "enableProfilingHandler": true}, nil)
	root := f.asRoot(t)
	t.Cleanup(func() { load(t, t.TempDir(), nil, "--kubeconfig=/none") }) // sets the verbosity back
	put := func(body string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+f.Addr()+"/debug/flags/v", strings.NewReader(body))
		must(t, err)
		answer, err := root.Do(r)
		must(t, err)
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	if code := put("4"); code != http.StatusOK || !klog.V(4).Enabled() || klog.V(5).Enabled() {
		t.Errorf("4: %d, V(4) %v, V(5) %v", code, klog.V(4).Enabled(), klog.V(5).Enabled())
	}
	for _, wrong := range []string{"many", "-1", "2147483648", ""} {
		if code := put(wrong); code != http.StatusBadRequest || !klog.V(4).Enabled() {
			t.Errorf("%q: %d, V(4) %v", wrong, code, klog.V(4).Enabled())
		}
	}
	if code, body := f.do(t, root, http.MethodGet, "/debug/pprof/goroutine?debug=1"); code != http.StatusOK || !strings.Contains(body, "goroutine profile") {
		t.Errorf("/debug/pprof/goroutine: %d %.100s", code, body)
	}
}
