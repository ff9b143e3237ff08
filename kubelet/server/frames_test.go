package server

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Frames of each protocol: what is no ping, a ping and its answer.
var frameKinds = map[string]struct{ other, ping, pong []byte }{
	"SPDY/3.1": {
		slices.Concat([]byte{0, 0, 0, 3, 1, 0, 1, 44}, make([]byte, 300)),
		[]byte{0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 1, 7}, []byte{0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 1, 7},
	},
	"websocket": {
		slices.Concat([]byte{0x82, 0xfe, 1, 44, 1, 2, 3, 4}, make([]byte, 300)),
		[]byte{0x89, 0x82, 1, 2, 3, 4, 'h' ^ 1, 'i' ^ 2}, []byte{0x8a, 2, 'h', 'i'},
	},
}

func TestFrames(t *testing.T) {
	for name, kind := range frameKinds {
		p := protocolOf(http.Header{"Upgrade": {name}})
		for _, frame := range [][]byte{kind.other, kind.ping, kind.pong} {
			for n := range frame {
				if size := p.size(frame[:n]); size != 0 && size != int64(len(frame)) {
					t.Errorf("%s: %d bytes of %d say that there are %d", name, n, len(frame), size)
				}
			}
		}
		if got := p.pong(kind.ping); !bytes.Equal(got, kind.pong) {
			t.Errorf("%s: a ping is answered by %v, want %v", name, got, kind.pong)
		}
		if got := p.pong(kind.other); got != nil {
			t.Errorf("%s: another frame is answered by %v", name, got)
		}
	}
	spdy, socket := spdyFrames{}, webSocketFrames{}
	if got := spdy.pong([]byte{0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2}); got != nil {
		t.Errorf("SPDY: the client's answer to the runtime's ping is answered by %v", got)
	}
	for want, head := range map[int64][]byte{2 + 125: {0x82, 125}, 4 + 65535: {0x82, 126, 255, 255}, 10 + 1<<40: {0x82, 127, 0, 0, 1, 0, 0, 0, 0, 0}, 6: {0x82, 0x80}} {
		if got := socket.size(head); got != want {
			t.Errorf("WebSocket %v: %d, want %d", head, got, want)
		}
	}
	if got := protocolOf(http.Header{"Upgrade": {"echo"}}); got != nil {
		t.Errorf("an unknown protocol: %v", got)
	}
}

// TestPongs: they go between frames, however those are cut into pieces, and none is lost.
func TestPongs(t *testing.T) {
	for name, kind := range frameKinds {
		p := protocolOf(http.Header{"Upgrade": {name}})
		stream := slices.Concat(kind.other, kind.other, kind.other)
		for cut := range len(stream) {
			var sent bytes.Buffer
			o := output{to: &sent, boundaries: boundaries{protocol: p}}
			if err := o.write(stream[:cut]); err != nil {
				t.Fatal(err)
			}
			o.pong(kind.pong)
			if err := o.write(stream[cut:]); err != nil {
				t.Fatal(err)
			}
			at := bytes.Index(sent.Bytes(), kind.pong)
			if at < 0 || at%len(kind.other) != 0 || !bytes.Equal(slices.Delete(sent.Bytes(), at, at+len(kind.pong)), stream) {
				t.Fatalf("%s, cut after %d bytes: the pong is at %d of frames of %d", name, cut, at, len(kind.other))
			}
		}
	}
}

// TestPingsOfIdleStreams: they reach a runtime that is silent, since it may have a limit of its own for idle streams.
func TestPingsOfIdleStreams(t *testing.T) {
	for name, kind := range frameKinds {
		synctest.Test(t, func(t *testing.T) {
			client, clientEnd := net.Pipe()
			runtime, runtimeEnd := net.Pipe()
			r := newRelay(clientEnd, runtimeEnd, protocolOf(http.Header{"Upgrade": {name}}), time.Minute)
			done := make(chan struct{})
			go func() { defer close(done); r.run(clientEnd) }()
			takes := func(what string, from, to net.Conn, frame, want []byte) {
				t.Helper()
				go func() { _, _ = from.Write(frame) }()
				must(t, to.SetReadDeadline(time.Now().Add(time.Second)))
				got := make([]byte, len(want))
				if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s, %s: %v, %v; want %v", name, what, got, err, want)
				}
			}
			takes("ping amid output", client, client, kind.ping, kind.pong)
			time.Sleep(2 * silence)
			takes("ping in silence", client, runtime, kind.ping, kind.ping)
			takes("output", runtime, client, kind.other, kind.other)
			takes("ping after output", client, client, kind.ping, kind.pong)
			takes("input", client, runtime, kind.other, kind.other)
			must(t, client.Close(), runtime.Close())
			<-done
		})
	}
}
