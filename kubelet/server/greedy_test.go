package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// greedy opens connections from an address of its own and keeps them open, until it has that many or one is refused.
func greedy(t *testing.T, address string, many int, open func(net.Conn) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	settled := make(chan struct{}, many)
	var refused atomic.Bool
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	slots := make(chan struct{}, 66) // so that none waits for its turn for longer than the server waits for it
	for range many {
		all.Go(func() {
			defer func() { settled <- struct{}{}; <-ctx.Done() }()
			slots <- struct{}{}
			defer func() { <-slots }()
			if refused.Load() {
				return
			}
			conn, err := dialer.DialContext(ctx, "tcp", address)
			if err != nil {
				refused.Store(true)
				return
			}
			all.Go(func() { <-ctx.Done(); _ = conn.Close() })
			done := make(chan error, 1)
			go func() { done <- open(conn) }()
			select {
			case err := <-done:
				if err != nil {
					refused.Store(true)
				}
			case <-time.After(500 * time.Millisecond): // it waits to be accepted
			}
		})
	}
	for range many {
		<-settled
	}
}

// TestGreedyPeers: whatever one peer or user opens and keeps open, others are answered at once.
func TestGreedyPeers(t *testing.T) {
	const follow = "GET /containerLogs/default/web/app?follow=true HTTP/1.1\r\nHost: node\r\n\r\n"
	for name, tt := range map[string]struct {
		user, say string
		answers   bool // it waits for the first line of an answer
		many      int
	}{
		"TLS not begun":          {many: 1090},
		"TLS begun":              {say: "\x16\x03\x01\x02\x00\x01\x00", many: 1090},
		"no request":             {user: "stranger", many: 1090},
		"half a header":          {user: "stranger", say: "GET /pods HTTP/1.1\r\nHost: node\r\nX-Part: ", many: 1090},
		"refused requests":       {user: "stranger", say: "GET /pods HTTP/1.1\r\nHost: node\r\n\r\n", answers: true, many: 1090},
		"connections after use":  {user: "root", say: "GET /pods HTTP/1.1\r\nHost: node\r\n\r\n", answers: true, many: 1090},
		"logs that are followed": {user: "root", say: follow, answers: true, many: 520},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil, nil)
			f.runtime.url = echo(t, nil) + "/stream"
			writeFile(t, f.observed.Containers[0].LogPath, "2026-01-01T00:00:00Z stdout F a\n")
			config := &tls.Config{InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(1)} //nolint:gosec // see TestServingCertificate
			if tt.user != "" {
				config.Certificates = []tls.Certificate{*f.ca.issue(t, pkix.Name{CommonName: tt.user})}
			}
			greedy(t, f.Addr(), tt.many, func(conn net.Conn) error {
				if tt.user != "" {
					conn = tls.Client(conn, config)
					if err := conn.(*tls.Conn).Handshake(); err != nil {
						return err
					}
				}
				if _, err := io.WriteString(conn, tt.say); err != nil || !tt.answers {
					return err
				}
				answer, err := http.ReadResponse(bufio.NewReader(conn), nil) //nolint:bodyclose // the connection is kept open
				if err == nil && (answer.Close || answer.StatusCode == http.StatusTooManyRequests) {
					return errors.New(answer.Status)
				}
				return err
			})
			other := f.client(t, f.ca.issue(t, pkix.Name{CommonName: "other"}))
			other.Timeout = headerTimeout / 2
			f.reviews.granting("get metrics", "get proxy", "create proxy")
			for _, path := range []string{"/metrics", "/containerLogs/default/web/app"} {
				if code, body := f.do(t, other, http.MethodGet, path); code != http.StatusOK {
					t.Errorf("meanwhile %s of another user: %d %s", path, code, body)
				}
			}
			for _, path := range []string{"/exec/default/web/app?command=id&output=1", "/portForward/default/web"} {
				if status := f.upgradeAs(t, "other", path); status != http.StatusSwitchingProtocols {
					t.Errorf("meanwhile %s of another user: %d", path, status)
				}
			}
		})
	}
}

// upgradeAs opens a stream as a user, which stays open until the test ends.
func (f *fixture) upgradeAs(t *testing.T, user, path string) (status int) {
	t.Helper()
	conn, err := tls.Dial("tcp", f.Addr(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*f.ca.issue(t, pkix.Name{CommonName: user})}}) //nolint:gosec // see TestServingCertificate
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(headerTimeout/2)))
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: echo\r\nContent-Length: 0\r\n\r\n", path)
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	must(t, answer.Body.Close())
	return answer.StatusCode
}

// TestGreedyHealth: the port of health checks has places for others too.
func TestGreedyHealth(t *testing.T) {
	h, err := ListenHealthz("127.0.0.1:0", []Check{{Name: "ping", Check: func() error { return nil }}})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { h.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	const many = 200
	var all sync.WaitGroup
	defer all.Wait()
	refused := make(chan struct{}, many)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for range many {
		conn, err := dialer.Dial("tcp", h.Addr().String())
		if err != nil {
			refused <- struct{}{}
			continue
		}
		all.Go(func() {
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				refused <- struct{}{}
			}
		})
		defer conn.Close()
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	answer, err := client.Get("http://" + h.Addr().String() + "/healthz")
	must(t, err)
	must(t, answer.Body.Close())
	select {
	case <-refused:
	case <-time.After(2 * time.Second): // sooner than the server ends connections that say nothing
		t.Errorf("one peer holds %d connections", many)
	}
}
