package timeline

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// wire leads to a page, notes what is sent to it, and can be cut.
type wire struct {
	net.Listener
	mu    sync.Mutex
	to    string // "" for nowhere
	conns []net.Conn
	sent  strings.Builder
}

func newWire(t *testing.T) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l}
	var copies sync.WaitGroup
	copies.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			w.mu.Lock()
			to, err := net.Dial("tcp", w.to)
			if w.to == "" || err != nil {
				from.Close()
			} else {
				w.conns = append(w.conns, from, to)
				copies.Go(func() { _, _ = io.Copy(to, io.TeeReader(from, w)); to.Close() })
				copies.Go(func() { _, _ = io.Copy(from, to); from.Close() })
			}
			w.mu.Unlock()
		}
	})
	t.Cleanup(func() { l.Close(); w.lead(""); copies.Wait() })
	return w
}

// Write notes what is sent.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent.Write(p)
}

// lead ends all connections and leads new ones to an address.
func (w *wire) lead(to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range w.conns {
		conn.Close()
	}
	w.to, w.conns = to, nil
}

// TestBrokenStream: a page whose kubelet is away says so and goes on when it is back, with what it missed; when another has taken its
// place, it says where to look. Its token is sent in the address once, and nowhere else than to it.
func TestBrokenStream(t *testing.T) {
	n, other := newNode(t, nil, nil), newNode(t, nil, nil)
	w := newWire(t)
	w.lead(n.listener.Addr().String())
	ctx := n.browserAt(t, "http://"+w.Addr().String()+"/?token="+n.token+"#q=pod", "/events")
	pod := newPod("web", "Ready")
	n.start(t.Context(), pod, time.Now().Add(-time.Minute), "")
	until(ctx, t, "its steps", `timeline.store.pods.get("uid-web")?.steps.length === 14`)
	if at := evaluate[[]string](ctx, t, `[location.search + location.hash, document.referrer, document.cookie]`); at[0] != "#q=pod" || at[1] != "" || at[2] != "" {
		t.Errorf("address, referrer and cookie that scripts see: %q", at)
	}
	w.lead("")
	until(ctx, t, "it is lost", `document.getElementById("live").textContent === "lost, trying again"`)
	n.start(t.Context(), pod, time.Now(), "")
	w.lead(n.listener.Addr().String())
	until(ctx, t, "it goes on, each step once", `document.getElementById("live").textContent === "live" && timeline.store.pods.get("uid-web").steps.length === 28`)
	w.lead(other.listener.Addr().String())
	until(ctx, t, "another kubelet knows nothing of it", `document.getElementById("live").textContent === "ended: open the link of the kubelet's last start"`)
	w.mu.Lock()
	defer w.mu.Unlock()
	if text := w.sent.String(); strings.Count(text, "token=") != 1 || strings.Contains(text, "Referer:") {
		t.Errorf("sent:\n%s", text)
	}
}

// TestRelease: what cannot be released is refused with the reason, and stays held.
func TestRelease(t *testing.T) {
	steps, err := ParseStep("CreateContainer,syncPod")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, steps, nil)
	done := make(chan bool)
	go func() { done <- n.create(t, steps) != nil }()
	for len(steps.Held()) == 0 {
		time.Sleep(time.Millisecond)
	}
	go func() {
		_, span := begin(t.Context(), newTracer(n.recorder), "syncPod", "web")
		span.End()
		done <- true
	}()
	for len(steps.Held()) == 1 {
		time.Sleep(time.Millisecond)
	}
	ask := func(body string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+n.listener.Addr().String()+"/release", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+n.token)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		return answer.StatusCode, strings.TrimSpace(string(text))
	}
	for body, want := range map[string]string{
		"":                                      `want {"id": NUMBER}, and "edit": {"command": [...], "args": [...], "env": ["NAME=VALUE"]} to change what is sent: EOF`,
		`{"id": 1`:                              "unexpected EOF",
		`{"id": "1"}`:                           "cannot unmarshal string into Go struct field .id of type int",
		`{"id": 77}`:                            "no step 77 is held",
		`{}`:                                    "no step 0 is held",
		`{"id": 1, "edit": {"envs": ["A=1"]}}`:  `unknown field "envs"`,
		`{"id": 1, "edit": {"env": ["A"]}}`:     `env: "A": want NAME=VALUE`,
		`{"id": 1, "edit": {"env": ["A B=1"]}}`: `env: "A B=1": want NAME=VALUE`,
		`{"id": 1, "edit": {"command": "/bin/sh"}}`:                             "command",
		`{"id": 2, "edit": {}}`:                                                 "step 2 is no CreateContainer: nothing of it can be changed",
		`{"id": 1, "edit": {"args": ["` + strings.Repeat("x", maxBody) + `"]}}`: "too large",
	} {
		if code, text := ask(body); code != http.StatusBadRequest || !strings.Contains(text, want) {
			t.Errorf("%.80s: %d, %s, want %q", body, code, text, want)
		}
	}
	if held := steps.Held(); len(held) != 2 {
		t.Errorf("%d steps are held", len(held))
	}
	for _, id := range []string{"1", "2"} {
		if code, text := ask(`{"id": ` + id + `}`); code != http.StatusNoContent {
			t.Errorf("%d: %s", code, text)
		}
		<-done
	}
}
