package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"
	clientspdy "k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"minikubelet/kubelet/local"
)

// logs prints what a container wrote.
func logs(ctx context.Context, a *asker) error {
	pod, container, err := a.pod(ctx)
	if err != nil {
		return err
	}
	query := url.Values{"tailLines": {a.tail}}
	for name, on := range map[string]bool{"follow": a.follow, "previous": a.previous, "timestamps": a.timestamps} {
		query.Set(name, strconv.FormatBool(on))
	}
	return a.print(ctx, http.MethodGet, query, "containerLogs", pod.Namespace, pod.Name, container)
}

// print prints what is answered to a request.
func (a *asker) print(ctx context.Context, method string, query url.Values, path ...string) error {
	body, err := a.Do(ctx, method, query, path...)
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(a.out, body); err != nil && ctx.Err() == nil {
		return local.BrokenOff(err)
	}
	return nil
}

// stopPod ends a static pod and waits until it has ended.
func stopPod(ctx context.Context, a *asker) error {
	pod, _, err := a.pod(ctx)
	if err != nil {
		return err
	}
	return a.print(ctx, http.MethodPost, url.Values{"gracePeriod": {a.grace}}, "stop", pod.Namespace, pod.Name)
}

// execute runs a command in a container, with this program's input and output.
func execute(ctx context.Context, a *asker) error {
	pod, container, err := a.pod(ctx)
	if err != nil {
		return err
	}
	o := remotecommand.StreamOptions{Stdout: a.out, Stderr: os.Stderr, Tty: a.tty}
	query := url.Values{corev1.ExecStdoutParam: {"1"}, "command": a.rest}
	if a.stdin {
		o.Stdin = os.Stdin
		query.Set(corev1.ExecStdinParam, "1")
	}
	if a.tty {
		o.Stderr = nil
		query.Set(corev1.ExecTTYParam, "1")
		in := int(os.Stdin.Fd())
		before, err := term.MakeRaw(in) // every key is the command's
		if err != nil {
			return fmt.Errorf("exec: --tty needs a terminal as standard input: %w", err)
		}
		defer func() { _ = term.Restore(in, before) }()
		changed := make(sizes, 1)
		changed <- syscall.SIGWINCH // the size that it has now
		signal.Notify(changed, syscall.SIGWINCH)
		o.TerminalSizeQueue = changed
	} else {
		query.Set(corev1.ExecStderrParam, "1")
	}
	tripper, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{UpgradeTransport: a.Transport, PingPeriod: 5 * time.Second})
	if err != nil {
		return err
	}
	target := a.URL(query, "exec", pod.Namespace, pod.Name, container)
	end := &ends{SpdyRoundTripper: tripper}
	executor, err := remotecommand.NewSPDYExecutorForTransports(tripper, clientspdy.NewUpgraderForStreaming(end), http.MethodPost, target)
	if err != nil {
		return err
	}
	if err := executor.StreamWithContext(ctx, o); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	if !end.told {
		return errors.New("exec: the connection was lost before the command's end was known")
	}
	return nil
}

// ends notes whether the kubelet told of a command's end: a connection that is lost ends its streams as a command does that succeeds.
type ends struct {
	*spdy.SpdyRoundTripper
	httpstream.Connection
	told bool
}

// NewConnection implements httpstream.UpgradeRoundTripper.
func (e *ends) NewConnection(answer *http.Response) (_ httpstream.Connection, err error) {
	e.Connection, err = e.SpdyRoundTripper.NewConnection(answer)
	return e, err
}

// CreateStream implements httpstream.Connection.
func (e *ends) CreateStream(header http.Header) (httpstream.Stream, error) {
	stream, err := e.Connection.CreateStream(header)
	if err == nil && header.Get(corev1.StreamType) == corev1.StreamTypeError {
		return endStream{stream, e}, nil
	}
	return stream, err
}

// endStream is the one that the end is told on.
type endStream struct {
	httpstream.Stream
	of *ends
}

// Read implements io.Reader.
func (s endStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	s.of.told = s.of.told || n > 0
	return n, err
}

// sizes has a signal when the terminal has another size.
type sizes chan os.Signal

// Next implements remotecommand.TerminalSizeQueue.
func (changed sizes) Next() *remotecommand.TerminalSize {
	<-changed
	width, height, err := term.GetSize(int(os.Stdin.Fd()))
	if err != nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: uint16(width), Height: uint16(height)}
}
