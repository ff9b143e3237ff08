package server

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// tcpPair returns the two ends of a TCP connection.
func tcpPair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer listener.Close()
	client, err = net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	must(t, err)
	server, err = listener.AcceptTCP()
	must(t, err)
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

// hastyProxy is between a client and the kubelet as the apiserver is: when either side has ended, it closes both.
func hastyProxy(client, kubelet *net.TCPConn) {
	ended := make(chan struct{}, 2)
	for _, way := range [][2]*net.TCPConn{{client, kubelet}, {kubelet, client}} {
		go func() {
			_, _ = io.Copy(way[1], struct{ io.Reader }{way[0]})
			ended <- struct{}{}
		}()
	}
	<-ended
	_, _ = client.Close(), kubelet.Close()
}

// TestWholeStreamsThroughProxy: a proxy that closes as soon as the kubelet does drops what the client has not read yet
// if the client pings then. So the client must be the one that ends.
func TestWholeStreamsThroughProxy(t *testing.T) {
	for name, kind := range frameKinds {
		t.Run(name, func(t *testing.T) {
			client, front := tcpPair(t)
			back, kubelet := tcpPair(t)
			runtime, runtimeEnd := tcpPair(t)
			must(t, client.SetReadBuffer(16<<10), front.SetWriteBuffer(4<<20))
			go hastyProxy(front, back)
			r := newRelay(kubelet, runtimeEnd, protocolOf(http.Header{"Upgrade": {name}}), time.Minute)
			done := make(chan struct{})
			go func() { defer close(done); r.run(kubelet) }()
			want := bytes.Repeat(kind.other, (1<<20)/len(kind.other))
			_, err := runtime.Write(want)
			must(t, err, runtime.Close())
			var got []byte
			for piece := make([]byte, 64<<10); len(got) < len(want); {
				_, _ = client.Write(kind.ping)
				n, err := client.Read(piece)
				got = append(got, bytes.ReplaceAll(piece[:n], kind.pong, nil)...)
				if err != nil {
					t.Fatalf("%d of %d bytes, then %v", len(got), len(want), err)
				}
				time.Sleep(time.Millisecond)
			}
			must(t, client.Close())
			<-done
		})
	}
}

// TestEndOfStream: when the runtime has ended, the client is told as soon as it says that it ends too, or after a while.
func TestEndOfStream(t *testing.T) {
	closes := map[string][]byte{"SPDY/3.1": {0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0}, "websocket": {0x88, 0x80, 1, 2, 3, 4}}
	for name := range frameKinds {
		for _, says := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				client, clientEnd := net.Pipe()
				runtime, runtimeEnd := net.Pipe()
				r := newRelay(clientEnd, runtimeEnd, protocolOf(http.Header{"Upgrade": {name}}), 0)
				began := time.Now()
				done := make(chan struct{})
				go func() { defer close(done); r.run(clientEnd) }()
				must(t, runtime.Close())
				want := endTimeout
				if says {
					want = 0
					_, err := client.Write(closes[name])
					must(t, err)
				}
				if _, err := client.Read(make([]byte, 1)); err == nil {
					t.Errorf("%s: more comes after the end", name)
				}
				if took := time.Since(began); took != want {
					t.Errorf("%s, client says that it ends: %v: told after %v, want %v", name, says, took, want)
				}
				must(t, client.Close())
				<-done
			})
		}
	}
}
