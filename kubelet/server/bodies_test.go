package server

import (
	"bufio"
	"crypto/tls"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// TestGoneWithBody: what a client asked for ends with it, though it sent a body that is of no use.
func TestGoneWithBody(t *testing.T) {
	const body = "Host: node\r\nContent-Length: 4\r\n\r\nbody"
	for name, tt := range map[string]struct {
		request string
		answers bool
	}{
		"a followed log": {"GET /containerLogs/default/web/app?follow=true HTTP/1.1\r\n" + body, true},
		"a command":      {"POST /run/default/web/app?cmd=sleep HTTP/1.1\r\n" + body, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil, nil)
			f.runtime.begun = make(chan struct{})
			writeFile(t, f.observed.Containers[0].LogPath, "2026-01-01T00:00:00Z stdout F a\n")
			conn, err := tls.Dial("tcp", f.Addr(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*f.ca.issue(t, pkix.Name{CommonName: "root"})}}) //nolint:gosec // see TestServingCertificate
			must(t, err)
			defer conn.Close()
			fmt.Fprint(conn, tt.request)
			if tt.answers {
				_, err := http.ReadResponse(bufio.NewReader(conn), nil) //nolint:bodyclose // it has no end
				must(t, err)
			} else {
				<-f.runtime.begun
			}
			if f.logs.held()+f.commands.held() != 1 {
				t.Error("nothing is under way")
			}
			must(t, conn.Close())
			for start := time.Now(); f.logs.held()+f.commands.held() != 0; time.Sleep(time.Millisecond) {
				if time.Since(start) > 10*time.Second {
					t.Fatal("it goes on without its client")
				}
			}
		})
	}
}
