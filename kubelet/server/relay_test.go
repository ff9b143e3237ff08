package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"
	clientspdy "k8s.io/client-go/transport/spdy"
	"k8s.io/cri-streaming/pkg/streaming"
	criremote "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// streamed is how many bytes pass each way in these tests: more than all buffers on the way take together.
const streamed = 24 << 20

// noise returns bytes in which every loss and every change of order shows.
func noise(size int) []byte {
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = random.Read(data)
	return data
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return fmt.Sprint(len(data), " bytes ", hex.EncodeToString(s[:8]))
}

// bursty is a runtime whose streaming server is the one of containerd and CRI-O, with what goes through it: as soon as
// a command has written all it closes the connection, whatever the client still says.
type bursty struct {
	answer []byte
	mu     sync.Mutex
	got    bytes.Buffer
}

func (b *bursty) Exec(_ context.Context, _ string, _ []string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan criremote.TerminalSize) error {
	return b.talk(in, out)
}

func (b *bursty) Attach(_ context.Context, _ string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan criremote.TerminalSize) error {
	return b.talk(in, out)
}

func (b *bursty) PortForward(_ context.Context, _ string, _ int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	return b.talk(stream, stream)
}

// talk takes all of the input, a little at a time, and then answers in one burst.
func (b *bursty) talk(in io.Reader, out io.Writer) error {
	if in != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if _, err := io.Copy(slowly{&b.got}, in); err != nil {
			return err
		}
	}
	return inPieces(out, b.answer)
}

// inPieces writes data as programs do, not all at once.
func inPieces(out io.Writer, data []byte) error {
	for piece := range slices.Chunk(data, 32<<10) {
		if _, err := out.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

func (b *bursty) received() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return sum(b.got.Bytes())
}

// slowly writes with pauses.
type slowly struct{ io.Writer }

func (s slowly) Write(p []byte) (int, error) {
	time.Sleep(500 * time.Microsecond)
	return s.Writer.Write(p)
}

// serve starts the runtime's streaming server and has the fixture's runtime point to it.
func (b *bursty) serve(t *testing.T, f *fixture) {
	t.Helper()
	config := streaming.DefaultConfig
	server := httptest.NewUnstartedServer(nil)
	config.BaseURL = &url.URL{Scheme: "http", Host: server.Listener.Addr().String()}
	handler, err := streaming.NewServer(config, b)
	must(t, err)
	server.Config.Handler = handler
	server.Start()
	t.Cleanup(server.Close)
	f.runtime.streams = handler
}

// tlsClient is the administrator's end of a TLS connection.
func (f *fixture) tlsClient(t *testing.T) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*f.ca.issue(t, pkix.Name{CommonName: "root"})}} //nolint:gosec // see TestServingCertificate
}

// pinging is a SPDY client that pings all the time.
func (f *fixture) pinging(t *testing.T) *spdy.SpdyRoundTripper {
	tripper, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{TLS: f.tlsClient(t), PingPeriod: time.Millisecond})
	must(t, err)
	return tripper
}

// TestWholeStreams: everything arrives, both ways, from a runtime that writes in bursts and closes at once to a client
// that is slow and pings.
func TestWholeStreams(t *testing.T) {
	f := newFixture(t, nil, nil)
	b := &bursty{answer: noise(streamed)}
	b.serve(t, f)
	input := noise(8 << 20)
	for path, stdin := range map[string][]byte{"/exec/default/web/app?command=x&output=1&input=1": input, "/attach/default/web/app?output=1": nil} {
		t.Run("SPDY"+path[:strings.Index(path, "/default")], func(t *testing.T) {
			b.got.Reset()
			target, err := url.Parse("https://" + f.Addr() + path)
			must(t, err)
			tripper := f.pinging(t)
			executor, err := remotecommand.NewSPDYExecutorForTransports(tripper, clientspdy.NewUpgraderForStreaming(tripper), http.MethodPost, target)
			must(t, err)
			var out bytes.Buffer
			o := remotecommand.StreamOptions{Stdout: slowly{&out}}
			if stdin != nil {
				o.Stdin = bytes.NewReader(stdin)
			}
			if err = executor.StreamWithContext(t.Context(), o); err != nil || sum(out.Bytes()) != sum(b.answer) {
				t.Errorf("%s came back, %v; want %s", sum(out.Bytes()), err, sum(b.answer))
			}
			if b.received() != sum(stdin) {
				t.Errorf("%s arrived, want %s", b.received(), sum(stdin))
			}
		})
	}
	t.Run("SPDY/portForward", func(t *testing.T) { b.forwarded(t, f, input) })
	t.Run("WebSocket/exec", func(t *testing.T) { b.webSocket(t, f) })
}

// forwarded sends input through a forwarded port and takes the answer.
func (b *bursty) forwarded(t *testing.T, f *fixture, input []byte) {
	b.got.Reset()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+f.Addr()+"/portForward/default/web", http.NoBody)
	must(t, err)
	tripper := f.pinging(t)
	conn, _, err := clientspdy.NegotiateStreaming(clientspdy.NewUpgraderForStreaming(tripper), &http.Client{Transport: tripper}, request, "portforward.k8s.io")
	must(t, err)
	defer conn.Close()
	open := func(kind string) httpstream.Stream {
		stream, err := conn.CreateStream(http.Header{corev1.StreamType: {kind}, corev1.PortHeader: {"80"}, corev1.PortForwardRequestIDHeader: {"0"}})
		must(t, err)
		return stream
	}
	open(corev1.StreamTypeError)
	data := open(corev1.StreamTypeData)
	go func() {
		_ = inPieces(data, input)
		_ = data.Close()
	}()
	var out bytes.Buffer
	if _, err := io.Copy(slowly{&out}, data); err != nil || sum(out.Bytes()) != sum(b.answer) {
		t.Errorf("%s came back, %v; want %s", sum(out.Bytes()), err, sum(b.answer))
	}
	if b.received() != sum(input) {
		t.Errorf("%s arrived, want %s", b.received(), sum(input))
	}
}

// webSocket runs a command over a WebSocket on which pings are sent all the time.
func (b *bursty) webSocket(t *testing.T, f *fixture) {
	config, err := websocket.NewConfig("wss://"+f.Addr()+"/exec/default/web/app?command=x&output=1", "https://"+f.Addr())
	must(t, err)
	config.TlsConfig, config.Protocol = f.tlsClient(t), []string{"v4.channel.k8s.io"}
	conn, err := config.DialContext(t.Context())
	must(t, err)
	defer conn.Close()
	stop := make(chan struct{})
	var pings sync.WaitGroup
	defer pings.Wait()
	defer close(stop)
	pings.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			w, err := conn.NewFrameWriter(websocket.PingFrame)
			if err != nil {
				return
			}
			if _, err := w.Write([]byte("are you there")); err != nil {
				return
			}
		}
	})
	var out, status bytes.Buffer
	for {
		var message []byte
		if err := websocket.Message.Receive(conn, &message); err != nil {
			break
		}
		switch {
		case len(message) > 1 && message[0] == 1:
			_, _ = slowly{&out}.Write(message[1:])
		case len(message) > 1 && message[0] == 3:
			status.Write(message[1:])
		}
	}
	if sum(out.Bytes()) != sum(b.answer) || !strings.Contains(status.String(), "Success") {
		t.Errorf("%s came back, want %s; status %q", sum(out.Bytes()), sum(b.answer), status.String())
	}
}

// TestHalfClosedStreams: an end that has said all still gets all, on either side.
func TestHalfClosedStreams(t *testing.T) {
	f := newFixture(t, nil, nil)
	data := noise(streamed)
	peer := func(serve func(*net.TCPConn, io.Reader)) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, buffered, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			serve(conn.(*net.TCPConn), buffered)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	const path = "/attach/default/web/app?input=1"
	t.Run("the runtime's end", func(t *testing.T) {
		f.runtime.url = peer(func(conn *net.TCPConn, in io.Reader) {
			_, _ = conn.Write(data)
			_ = conn.CloseWrite()
			_, _ = io.Copy(io.Discard, in)
		})
		conn, reader, _ := f.upgrade(t, path)
		stop := make(chan struct{})
		var talk sync.WaitGroup
		talk.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					_, _ = conn.Write([]byte("more"))
				}
			}
		})
		var out bytes.Buffer
		_, err := bufio.NewReaderSize(struct{ io.Reader }{reader}, 64<<10).WriteTo(slowly{&out})
		if err != nil || sum(out.Bytes()) != sum(data) {
			t.Errorf("%s came, %v; want %s", sum(out.Bytes()), err, sum(data))
		}
		close(stop)
		talk.Wait()
	})
	t.Run("the client's end", func(t *testing.T) {
		got := make(chan string, 1)
		f.runtime.url = peer(func(conn *net.TCPConn, in io.Reader) {
			var all bytes.Buffer
			_, _ = bufio.NewReaderSize(struct{ io.Reader }{in}, 64<<10).WriteTo(slowly{&all})
			got <- sum(all.Bytes())
			_, _ = conn.Write(data)
		})
		conn, reader, _ := f.upgrade(t, path)
		go func() {
			_, _ = conn.Write(data[:8<<20])
			_ = conn.(*tls.Conn).CloseWrite()
		}()
		var out bytes.Buffer
		_, err := io.Copy(&out, reader)
		if err != nil || sum(out.Bytes()) != sum(data) {
			t.Errorf("%s came, %v; want %s", sum(out.Bytes()), err, sum(data))
		}
		if arrived := <-got; arrived != sum(data[:8<<20]) {
			t.Errorf("%s arrived, want %s", arrived, sum(data[:8<<20]))
		}
	})
}
