package server

import (
	"bufio"
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// echo is a runtime's streaming server that sends back what it gets. seen gets the headers of each request.
func echo(t *testing.T, seen chan<- http.Header) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/stream" {
			http.Error(w, "no such stream", http.StatusNotFound)
			return
		}
		if seen != nil {
			seen <- r.Header
		}
		conn, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(conn, buffered)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// upgrade opens a stream as the administrator and returns the connection behind the answer's headers.
func (f *fixture) upgrade(t *testing.T, path string) (net.Conn, *bufio.Reader, string) {
	t.Helper()
	conn, err := tls.Dial("tcp", f.Addr(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*f.ca.issue(t, pkix.Name{CommonName: "root"})}}) //nolint:gosec // see TestServingCertificate
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: echo\r\nAuthorization: Bearer secret\r\nCookie: secret\r\nContent-Length: 0\r\n\r\n", path)
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(answer.Body)
		return conn, reader, answer.Status + " " + string(body)
	}
	return conn, reader, answer.Status
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestStreams: bytes pass both ways, however many, and credentials do not.
func TestStreams(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(), goleak.IgnoreAnyFunction("net/http/httptest.(*Server).goServe.func1"))
	f := newFixture(t, nil, nil)
	defer f.stop()
	seen := make(chan http.Header, 10)
	f.runtime.url = echo(t, seen) + "/stream"
	for _, path := range []string{"/exec/default/web/app?command=sh&input=1&output=1", "/attach/default/web/app?input=1", "/portForward/default/web"} {
		conn, reader, answer := f.upgrade(t, path)
		if !strings.HasPrefix(answer, "101") {
			t.Errorf("%s: %s", path, answer)
			continue
		}
		const size = 4 << 20
		go func() { _, _ = conn.Write(make([]byte, size)) }()
		if n, err := io.CopyN(io.Discard, reader, size); err != nil {
			t.Errorf("%s: %d bytes came back, %v", path, n, err)
		}
		if header := <-seen; header.Get("Authorization") != "" || header.Get("Cookie") != "" {
			t.Errorf("%s: the runtime got the client's credentials: %v", path, header)
		}
		must(t, conn.Close())
	}
}

// TestStreamRequests: what the runtime is asked for, and what it is not.
func TestStreamRequests(t *testing.T) {
	f := newFixture(t, nil, nil)
	f.runtime.url = echo(t, nil) + "/stream"
	for path, want := range map[string]any{
		"/exec/default/web/app?command=ls&command=-l&input=1&output=1&error=1": &runtimeapi.ExecRequest{ContainerId: "c1", Cmd: []string{"ls", "-l"}, Stdin: true, Stdout: true, Stderr: true},
		"/exec/default/web/u1/app?command=sh&output=1&error=1&tty=1":           &runtimeapi.ExecRequest{ContainerId: "c1", Cmd: []string{"sh"}, Stdout: true, Tty: true},
		"/attach/default/web/app?input=1":                                      &runtimeapi.AttachRequest{ContainerId: "c1", Stdin: true},
		"/portForward/default/web":                                             &runtimeapi.PortForwardRequest{PodSandboxId: "s1"},
		"/exec/default/web/app?command=ls":                                     "400 Bad Request you must specify at least 1 of stdin, stdout, stderr",
		"/exec/default/web/app?command=ls&output=true":                         "400 Bad Request you must specify at least 1 of stdin, stdout, stderr",
		"/exec/default/web/other?output=1":                                     "404 Not Found container \"other\" of pod \"web\" is not running",
		"/exec/default/web/none?output=1":                                      "404 Not Found container not found (\"none\")",
		"/exec/default/none/app?output=1":                                      "404 Not Found pod \"none\" does not exist",
		"/exec/other/web/app?output=1":                                         "404 Not Found pod \"web\" does not exist",
		"/exec/default/web/u2/app?output=1":                                    "404 Not Found pod \"web\" with UID \"u2\" does not exist",
		"/portForward/default/web/u2":                                          "404 Not Found pod \"web\" with UID \"u2\" does not exist",
	} {
		_ = f.runtime.took(nil)
		_, _, answer := f.upgrade(t, path)
		f.runtime.mu.Lock()
		got := f.runtime.last
		f.runtime.mu.Unlock()
		if got == nil {
			got = answer
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	if code, body := f.do(t, f.asRoot(t), http.MethodPost, "/exec/default/web/app?output=1"); code != http.StatusBadRequest || !strings.Contains(body, "Upgrade request required") {
		t.Errorf("without upgrade: %d %s", code, body)
	}
	f.runtime.url = strings.TrimSuffix(f.runtime.url, "stream") + "gone"
	if _, _, answer := f.upgrade(t, "/exec/default/web/app?output=1"); answer != "404 Not Found no such stream" {
		t.Errorf("the runtime refuses: %s", answer)
	}
	f.runtime.err = errors.New("out of order")
	if _, _, answer := f.upgrade(t, "/attach/default/web/app?output=1"); !strings.Contains(answer, "500") || !strings.Contains(answer, "out of order") {
		t.Errorf("the runtime fails: %s", answer)
	}
}

// TestIdleStream: a stream on which nothing passes ends, one on which something does goes on.
func TestIdleStream(t *testing.T) {
	f := newFixture(t, map[string]any{"streamingConnectionIdleTimeout": "1500ms"}, nil)
	f.runtime.url = echo(t, nil) + "/stream"
	conn, reader, _ := f.upgrade(t, "/attach/default/web/app?input=1")
	for range 6 {
		time.Sleep(300 * time.Millisecond)
		if _, err := conn.Write([]byte{'x'}); err != nil {
			t.Fatal(err)
		}
		if _, err := reader.ReadByte(); err != nil {
			t.Fatalf("the stream ended while it was used: %v", err)
		}
	}
	if _, err := reader.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the idle stream did not end: %v", err)
	}
}

// TestStopEndsStreams: the server does not wait for its clients.
func TestStopEndsStreams(t *testing.T) {
	f := newFixture(t, nil, nil)
	f.runtime.url = echo(t, nil) + "/stream"
	_, reader, _ := f.upgrade(t, "/attach/default/web/app?input=1")
	f.stop()
	if _, err := reader.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the stream did not end: %v", err)
	}
}

func TestRun(t *testing.T) {
	f := newFixture(t, nil, nil)
	root := f.asRoot(t)
	for path, want := range map[string]string{
		"/run/default/web/app?cmd=echo%20a%20b": "200 echo+a+b!",
		"/run/default/web/u1/app?cmd=ls":        "200 ls!",
		"/run/default/web/app":                  "400 query parameter cmd is required",
		"/run/default/web/app?cmd=false":        "500 command [\"false\"] exited with 3: false!",
		"/run/default/web/other?cmd=ls":         "404 container \"other\" of pod \"web\" is not running",
	} {
		code, body := f.do(t, root, http.MethodPost, path)
		if got := fmt.Sprint(code, " ", body); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func TestCheckpoint(t *testing.T) {
	f := newFixture(t, nil, nil)
	root := f.asRoot(t)
	code, body := f.do(t, root, http.MethodPost, "/checkpoint/default/web/app?timeout=5")
	if code != http.StatusOK || !strings.HasPrefix(body, `{"items":["`+f.dir+"/checkpoints/checkpoint-web_default-app-") {
		t.Errorf("%d %s", code, body)
	}
	if r, ok := f.runtime.last.(*runtimeapi.CheckpointContainerRequest); !ok || r.Timeout != 5 || r.ContainerId != "c1" {
		t.Errorf("the runtime was asked for %v", f.runtime.last)
	}
	for _, timeout := range []string{"x", "-1", "999999999999"} {
		if code, body := f.do(t, root, http.MethodPost, "/checkpoint/default/web/app?timeout="+timeout); code != http.StatusBadRequest {
			t.Errorf("timeout %s: %d %s", timeout, code, body)
		}
	}
	f.runtime.err = status.Error(codes.Unimplemented, "cannot")
	if code, body := f.do(t, root, http.MethodPost, "/checkpoint/default/web/app"); code != http.StatusInternalServerError || !strings.Contains(body, "(rpc error: code = Unimplemented desc = cannot)") {
		t.Errorf("a runtime that cannot: %d %s", code, body)
	}
	f.runtime.err = errors.New("broken")
	if code, body := f.do(t, root, http.MethodPost, "/checkpoint/default/web/app"); code != http.StatusInternalServerError || !strings.Contains(body, "broken") {
		t.Errorf("a runtime that fails: %d %s", code, body)
	}
}

func TestForwardedPorts(t *testing.T) {
	for query, want := range map[string][]int32{
		"port=80": {80}, "port=80&port=443,8080": {80, 443, 8080},
		"": nil, "port=": nil, "port=0": nil, "port=65536": nil, "port=-1": nil, "port=80,": nil, "port=x": nil,
	} {
		r := &http.Request{URL: &url.URL{RawQuery: query}, Header: http.Header{"Upgrade": {"WebSocket"}}}
		got, err := forwardedPorts(r)
		if !reflect.DeepEqual(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v; want %v", query, got, err, want)
		}
		r.Header.Set("Upgrade", "SPDY/3.1")
		if got, err := forwardedPorts(r); got != nil || err != nil {
			t.Errorf("SPDY %q: %v, %v", query, got, err)
		}
	}
}

// FuzzQueries: no query of a stream or a log is answered with anything but a request or an error of the client's.
func FuzzQueries(f *testing.F) {
	f.Add("follow=true&tailLines=3&sinceSeconds=9&stream=Stdout&limitBytes=1&timestamps=1&previous=0&sinceTime=2026-01-01T00:00:00Z")
	f.Add("port=1,2&port=3&input=1&output=1&error=1&tty=1&tail=all")
	now := time.Now()
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		request, _, err := logRequest(values, now)
		if err != nil && statusOf(err) != http.StatusUnprocessableEntity && statusOf(err) != http.StatusBadRequest {
			t.Errorf("%v", err)
		}
		if err == nil && (request.Tail != nil && *request.Tail < 0 || request.Limit != nil && *request.Limit < 1 || values.Get("sinceSeconds") != "" && request.Since.After(now)) {
			t.Errorf("%+v", request)
		}
		if o, err := streamOptions(values); err == nil && (o.tty && o.stderr || !o.stdin && !o.stdout && !o.stderr) {
			t.Errorf("%+v", o)
		}
		ports, err := forwardedPorts(&http.Request{URL: &url.URL{RawQuery: query}, Header: http.Header{"Upgrade": {"websocket"}}})
		if err == nil && len(ports) == 0 {
			t.Error("no ports and no error")
		}
	})
}
