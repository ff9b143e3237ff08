package streaming

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"
	clientspdy "k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criremote "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// silent says nothing until its context ends, and then tells why that was; or it writes all of answer, and ends.
type silent struct {
	begun  chan struct{}
	ended  chan error
	answer []byte
}

func (s *silent) wait(ctx context.Context, out io.Writer) error {
	if s.answer != nil {
		_, err := io.Copy(out, struct{ io.Reader }{bytes.NewReader(s.answer)})
		return err
	}
	s.begun <- struct{}{}
	<-ctx.Done()
	s.ended <- context.Cause(ctx)
	return nil
}

func (s *silent) Exec(ctx context.Context, _ string, _ []string, _ io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan criremote.TerminalSize) error {
	return s.wait(ctx, out)
}

func (s *silent) Attach(ctx context.Context, _ string, _ io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan criremote.TerminalSize) error {
	return s.wait(ctx, out)
}

func (s *silent) PortForward(ctx context.Context, _ string, _ int32, stream io.ReadWriteCloser) error {
	return s.wait(ctx, stream)
}

// start serves streams with a runtime until the test ends.
func start(t *testing.T, r Runtime) *Server {
	t.Helper()
	s, err := New("127.0.0.1:0", r)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// location is the URL of an answer.
func location(t *testing.T, answer interface{ GetUrl() string }, err error) *url.URL {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(answer.GetUrl())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestEndsWithClient: what waits for something to happen is told when nobody waits with it any more, and why.
func TestEndsWithClient(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	r := &silent{begun: make(chan struct{}, 1), ended: make(chan error, 1)}
	s, err := New("127.0.0.1:0", r)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	exec, execErr := s.GetExec(&runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true})
	attach, attachErr := s.GetAttach(&runtimeapi.AttachRequest{ContainerId: "c", Stdout: true})
	forward, forwardErr := s.GetPortForward(&runtimeapi.PortForwardRequest{PodSandboxId: "p", Port: []int32{80}})
	for name, target := range map[string]*url.URL{
		"exec": location(t, exec, execErr), "attach": location(t, attach, attachErr), "port-forward": location(t, forward, forwardErr),
	} {
		tripper, err := spdy.NewRoundTripper(nil)
		if err != nil {
			t.Fatal(err)
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target.String(), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		protocol, kinds := "v4.channel.k8s.io", []string{corev1.StreamTypeError, corev1.StreamTypeStdout}
		if name == "port-forward" {
			protocol, kinds = "portforward.k8s.io", []string{corev1.StreamTypeError, corev1.StreamTypeData}
		}
		conn, _, err := clientspdy.NegotiateStreaming(clientspdy.NewUpgraderForStreaming(tripper), &http.Client{Transport: tripper}, request, protocol)
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range kinds {
			if _, err := conn.CreateStream(http.Header{corev1.StreamType: {kind}, corev1.PortHeader: {"80"}, corev1.PortForwardRequestIDHeader: {"0"}}); err != nil {
				t.Fatal(err)
			}
		}
		<-r.begun
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		select {
		case why := <-r.ended:
			if why != ErrGone { //nolint:errorlint // the very cause
				t.Errorf("%s ended with %v", name, why)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s outlives its client", name)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestWholeOutput: a slow client that pings gets all that a command wrote in one burst before it ended.
func TestWholeOutput(t *testing.T) {
	r := &silent{answer: bytes.Repeat([]byte("0123456789abcdef"), 1<<20)}
	s := start(t, r)
	answer, err := s.GetExec(&runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true})
	target := location(t, answer, err)
	tripper, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{PingPeriod: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	executor, err := remotecommand.NewSPDYExecutorForTransports(tripper, clientspdy.NewUpgraderForStreaming(tripper), http.MethodPost, target)
	if err != nil {
		t.Fatal(err)
	}
	var out slowly
	if err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out}); err != nil || !bytes.Equal(out.got.Bytes(), r.answer) {
		t.Errorf("%d of %d bytes came, %v", out.got.Len(), len(r.answer), err)
	}
}

// slowly takes bytes with pauses.
type slowly struct{ got bytes.Buffer }

func (s *slowly) Write(p []byte) (int, error) {
	time.Sleep(500 * time.Microsecond)
	return s.got.Write(p)
}
