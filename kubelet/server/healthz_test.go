package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestHealthz(t *testing.T) {
	defer goleak.VerifyNone(t)
	var loop atomic.Pointer[error] // what the syncloop check answers
	h, err := ListenHealthz("127.0.0.1:0", []Check{
		{Name: "ping", Check: func() error { return nil }},
		{Name: "syncloop", Check: func() error { return *loop.Load() }},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { h.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()

	get := func(path string) (int, string) {
		t.Helper()
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := client.Get("http://" + h.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(body)
	}
	tests := []struct {
		path string
		loop error
		code int
		body string
	}{
		{"/healthz", nil, 200, "ok"},
		{"/healthz?verbose", nil, 200, "[+]ping ok\n[+]syncloop ok\nhealthz check passed\n"},
		{"/healthz", errors.New("stuck"), 500, "[+]ping ok\n[-]syncloop failed: stuck\nhealthz check failed\n"},
		{"/healthz/ping", errors.New("stuck"), 200, "ok"},
		{"/healthz/syncloop", errors.New("stuck"), 500, "[-]syncloop failed: stuck\nhealthz check failed\n"},
		{"/healthz?exclude=syncloop", errors.New("stuck"), 200, "ok"},
		{"/healthz?exclude=syncloop&verbose", errors.New("stuck"), 200, "[+]ping ok\n[+]syncloop excluded: ok\nhealthz check passed\n"},
		{"/healthz?exclude=none&exclude=ping&verbose", nil, 200, "[+]ping excluded: ok\n[+]syncloop ok\nwarn: some health checks cannot be excluded: no matches for \"none\"\nhealthz check passed\n"},
		{"/healthz/nothing", nil, 404, "404 page not found\n"},
	}
	for _, tt := range tests {
		loop.Store(&tt.loop)
		if code, body := get(tt.path); code != tt.code || body != tt.body {
			t.Errorf("GET %s with syncloop %v: %d %q, want %d %q", tt.path, tt.loop, code, body, tt.code, tt.body)
		}
	}
	if _, err := ListenHealthz(h.Addr().String(), nil); err == nil || !strings.Contains(err.Error(), "healthzPort") {
		t.Errorf("binding a taken address: %v, want an error that names healthzPort", err)
	}
}
