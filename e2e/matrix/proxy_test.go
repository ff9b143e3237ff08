package matrix

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/crifake"
)

// proxied is a runtime behind a proxy, and a client before it.
func proxied(t *testing.T) (*CRIProxy, runtimeapi.RuntimeServiceClient) {
	t.Helper()
	fake := crifake.Start(t)
	p, err := StartCRIProxy(filepath.Join(t.TempDir(), "p.sock"), strings.TrimPrefix(fake.Endpoint(), "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	conn, err := grpc.NewClient("unix://"+p.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return p, runtimeapi.NewRuntimeServiceClient(conn)
}

func sandbox(name string) *runtimeapi.RunPodSandboxRequest {
	return &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "00000000-0000-0000-0000-" + name},
	}}
}

// TestCRIProxy: each kind of fault is what it says, once, and calls of other pods and methods pass.
func TestCRIProxy(t *testing.T) {
	p, client := proxied(t)
	for i, test := range []struct {
		kind Kind
		code codes.Code
		done bool // whether the runtime did it
	}{
		{Failing, codes.Unknown, false},
		{FailingLate, codes.Unknown, false},
		{Hanging, codes.DeadlineExceeded, false},
		{AnswerLost, codes.DeadlineExceeded, true},
		{Cut, codes.Unavailable, true},
	} {
		name := string(rune('a'+i)) + "00000000000"
		fault := p.Inject(Fault{Kind: test.kind, Method: "RunPodSandbox", Subject: NewSubject(name), Times: 1, Delay: 50 * time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if _, err := client.RunPodSandbox(ctx, sandbox("other"+name[:7])); err != nil {
			t.Errorf("%s: another pod's call: %v", test.kind, err)
		}
		if _, err := client.RunPodSandbox(ctx, sandbox(name)); status.Code(err) != test.code {
			t.Errorf("%s: %v, want %v", test.kind, err, test.code)
		}
		cancel()
		list, err := client.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		done := false
		for _, p := range list.GetItems() {
			done = done || p.GetMetadata().GetName() == name
		}
		if done != test.done || fault.Hits() != 1 {
			t.Errorf("%s: done is %v, met %d times", test.kind, done, fault.Hits())
		}
		fault.Heal()
		if _, err := client.RunPodSandbox(t.Context(), sandbox(name)); err != nil && !test.done {
			t.Errorf("%s: healed: %v", test.kind, err)
		}
	}
	if n := p.Methods()["ListPodSandbox"]; n != 5 {
		t.Errorf("ListPodSandbox was counted %d times", n)
	}
}

// TestHeal lets go what hangs.
func TestHeal(t *testing.T) {
	p, client := proxied(t)
	fault := p.Inject(Fault{Kind: Hanging, Method: "Version"})
	answered := make(chan error, 1)
	go func() {
		_, err := client.Version(context.Background(), &runtimeapi.VersionRequest{})
		answered <- err
	}()
	<-fault.First()
	fault.Heal()
	if err := <-answered; err == nil {
		t.Error("the call that hung was answered")
	}
	if _, err := client.Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
		t.Error(err)
	}
}

// TestSubject: a pod is known by its name, then by the ids in its calls and their answers, but not by its image's digest.
func TestSubject(t *testing.T) {
	const sandbox = "1111111111111111111111111111111111111111111111111111111111111111"
	const digest = "2222222222222222222222222222222222222222222222222222222222222222"
	var f faults
	s := NewSubject("cell-1")
	f.inject(Fault{Subject: s})
	if f.subjectOf([]byte("list")) != nil {
		t.Error("a list is of no pod")
	}
	if f.subjectOf([]byte("run cell-1 of sha256:"+digest)) != s {
		t.Error("the pod is not known by its name")
	}
	s.learn([]byte("\x40" + sandbox))
	if f.subjectOf([]byte("stop "+sandbox)) != s || f.subjectOf([]byte("pull "+digest)) != nil {
		t.Error("the pod is not known by what its calls mention, or by more")
	}
}

// TestAPIFaults: what the apiserver's proxy answers.
func TestAPIFaults(t *testing.T) {
	p := &APIProxy{}
	server := httptest.NewServer(p)
	defer server.Close()
	for kind, want := range map[Kind]int{Failing: 500, Gone: 410, TooMany: 429, Clash: 409} {
		fault := p.Inject(Fault{Kind: kind, Method: Writes})
		answer, err := http.Post(server.URL+"/api/v1/namespaces/default/pods", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if answer.StatusCode != want || (answer.Header.Get("Retry-After") != "") != (kind == TooMany) {
			t.Errorf("%s: %s, %v", kind, answer.Status, answer.Header)
		}
		fault.Heal()
	}
	p.Inject(Fault{Kind: Cut})
	if answer, err := http.Get(server.URL + "/api/v1/pods"); !errors.Is(err, io.EOF) {
		t.Errorf("cut: %v", err)
		if err == nil {
			answer.Body.Close()
		}
	}
}

// TestRequestKind sorts requests.
func TestRequestKind(t *testing.T) {
	for url, want := range map[string]string{
		"/api/v1/pods?watch=true":                                          Watches,
		"/api/v1/pods?fieldSelector=x":                                     Lists,
		"/apis/node.k8s.io/v1/runtimeclasses":                              Lists,
		"/api/v1/nodes/node":                                               Reads,
		"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/x": Reads,
	} {
		if got := requestKind(httptest.NewRequest(http.MethodGet, url, nil)); got != want {
			t.Errorf("%s is a %s, want %s", url, got, want)
		}
	}
}

// TestPrint: one fault that did not heal makes the table a bad one.
func TestPrint(t *testing.T) {
	if Print(io.Discard, []Row{{Fault: "a"}, {Fault: "b", Problems: []string{"c"}}}) || !Print(io.Discard, []Row{{Fault: "a"}}) {
		t.Error("the table's verdict is wrong")
	}
}
