package timeline

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/timeline/story"
)

// assets are sent as they are: what differs comes with the state, as data. A template would bring in reflection by name, which
// keeps every method of every type in the program.
//
//go:embed page
var assets embed.FS

const (
	maxStreams  = 16                     // pages at once
	batch       = 500                    // steps of one message
	gather      = 100 * time.Millisecond // how long changes are gathered for one message
	statePeriod = 500 * time.Millisecond
	maxBody     = 64 << 10 // bytes of a request
)

// Page serves the timeline on loopback, to those who know its token.
type Page struct {
	recorder *Recorder
	steps    *StepMode // nil if it is off, as chaos
	chaos    *Chaos
	now      func() State
	listener net.Listener
	token    string
	cookie   string
	streams  chan struct{} // has an element for each page that looks
}

// Listen opens the page's port: PORT or ADDRESS:PORT, on loopback; port 0 for any. steps and chaos are nil if they are off.
func Listen(listen string, recorder *Recorder, steps *StepMode, chaos *Chaos) (*Page, error) {
	address := listen
	if !strings.Contains(address, ":") {
		address = net.JoinHostPort("127.0.0.1", address)
	}
	host, port, err := net.SplitHostPort(address)
	if _, wrong := strconv.ParseUint(port, 10, 16); err != nil || wrong != nil {
		return nil, fmt.Errorf("--timeline: %q: want a port, or a loopback address with one", listen)
	}
	if !loopback(host) {
		return nil, fmt.Errorf("--timeline: %q: the page is served on loopback only", listen)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--timeline: %w", err)
	}
	return &Page{
		recorder: recorder, steps: steps, chaos: chaos, listener: listener, token: rand.Text(), streams: make(chan struct{}, maxStreams),
		// Cookies are one host's, whatever the port: each page has a name of its own.
		cookie: fmt.Sprint("timeline-", listener.Addr().(*net.TCPAddr).Port),
	}, nil
}

func loopback(host string) bool { return host == "localhost" || net.ParseIP(host).IsLoopback() }

// Link is the page's address with its token.
func (p *Page) Link() string {
	return "http://" + p.listener.Addr().String() + "/?token=" + url.QueryEscape(p.token)
}

// Run serves until ctx ends. now is called from goroutines of the page, a few times a second while a browser has it open, and
// must not wait.
func (p *Page) Run(ctx context.Context, now func() State) {
	p.now = now
	logger := klog.FromContext(ctx)
	server := &http.Server{
		Handler: p.handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	logger.Info("The timeline can be seen", "link", p.Link())
	if err := server.Serve(p.listener); !errors.Is(err, http.ErrServerClosed) {
		logger.Error(err, "The timeline's page has ended")
	}
}

func (p *Page) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.index)
	mux.HandleFunc("GET /page/{file}", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFileFS(w, r, assets, "page/"+r.PathValue("file"))
	})
	mux.HandleFunc("GET /events", p.events)
	mux.HandleFunc("GET /step", p.step)
	mux.HandleFunc("GET /steps.json", func(w http.ResponseWriter, r *http.Request) { reply(w, p.exported(r)) })
	mux.HandleFunc("GET /perfetto.json", p.perfetto)
	mux.HandleFunc("POST /release", p.release)
	return p.guard(http.NewCrossOriginProtection().Handler(mux))
}

// headers go with every answer.
var headers = map[string]string{
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	"X-Content-Type-Options":  "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
	"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
}

// guard lets only requests for a loopback host with the token or its cookie pass. A name that leads to loopback is refused: it
// may be another site's.
func (p *Page) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		switch {
		case !loopback((&url.URL{Host: r.Host}).Hostname()):
			http.Error(w, "this is served for loopback addresses only", http.StatusMisdirectedRequest)
		case !p.authorized(r):
			http.Error(w, "the link that the kubelet printed at its start leads here; a new start has a new one", http.StatusUnauthorized)
		default:
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			next.ServeHTTP(w, r)
		}
	})
}

func (p *Page) authorized(r *http.Request) bool {
	given := r.URL.Query().Get("token")
	if cookie, err := r.Cookie(p.cookie); err == nil && given == "" {
		given = cookie.Value
	}
	given = cmp.Or(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), given)
	return subtle.ConstantTimeCompare([]byte(given), []byte(p.token)) == 1
}

// index sends the page. A link with the token leaves a cookie and leads to the page without it, whose address can be passed on.
func (p *Page) index(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("token") {
		http.SetCookie(w, &http.Cookie{Name: p.cookie, Value: p.token, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	http.ServeFileFS(w, r, assets, "page/index.html")
}

// shorten leaves of a step what the stream has: not what is shown when it is chosen.
func (s *Step) shorten() {
	s.What = table()[s.Name][0]
	s.Before, s.After, s.Attributes = "", "", nil
	s.Notes = s.Notes[max(0, len(s.Notes)-1):]
}

// events is the stream: steps that began or changed, and the state when it is another one.
func (p *Page) events(w http.ResponseWriter, r *http.Request) {
	select {
	case p.streams <- struct{}{}:
		defer func() { <-p.streams }()
	default:
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(event string, data any) error {
		text, err := json.Marshal(data)
		_ = control.SetWriteDeadline(time.Now().Add(30 * time.Second)) // a page that reads nothing is given up
		_, wrong := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, text)
		return errors.Join(err, wrong)
	}
	tick := time.NewTicker(statePeriod)
	defer tick.Stop()
	after, _ := strconv.ParseUint(r.Header.Get("Last-Event-ID"), 10, 64)
	last, err := "", send("hello", time.Now())
	for err == nil {
		bell := p.recorder.Bell()
		var steps []Step
		for steps, after = p.recorder.Since(after, batch); len(steps) > 0 && err == nil; steps, after = p.recorder.Since(after, batch) {
			for i := range steps {
				steps[i].shorten()
			}
			fmt.Fprintf(w, "id: %d\n", after)
			err = send("steps", steps)
		}
		if now, _ := json.Marshal(p.state()); string(now) != last && err == nil {
			last, err = string(now), send("state", json.RawMessage(now))
		}
		err = errors.Join(err, control.Flush())
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		case <-bell:
			time.Sleep(gather)
		}
	}
}

// step sends all that is known of one step, with its source.
func (p *Page) step(w http.ResponseWriter, r *http.Request) {
	steps := p.recorder.Steps(r.URL.Query().Get("pod"))
	at := slices.IndexFunc(steps, func(s Step) bool { return s.ID.String() == r.URL.Query().Get("id") })
	if at < 0 {
		http.Error(w, "the step is not kept any more", http.StatusNotFound)
		return
	}
	step := steps[at]
	step.What = table()[step.Name][0]
	reply(w, map[string]any{"step": step, "code": locate(&step, steps)})
}

// release lets a held step go on.
func (p *Page) release(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		ID   int   `json:"id"`
		Edit *Edit `json:"edit"`
	}
	body := json.NewDecoder(r.Body)
	body.DisallowUnknownFields()
	if err := body.Decode(&ask); err != nil {
		http.Error(w, fmt.Sprint(`want {"id": NUMBER}, and "edit": {"command": [...], "args": [...], "env": ["NAME=VALUE"]} to change what is sent: `, err), http.StatusBadRequest)
	} else if err := p.steps.Release(ask.ID, ask.Edit); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	} else {
		w.WriteHeader(http.StatusNoContent)
	}
}

func reply(w http.ResponseWriter, data any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(data)
}

// exported returns the steps that a request asks for, by their beginning: those of one pod, of the node, or all.
func (p *Page) exported(r *http.Request) []Step {
	steps := p.recorder.Steps(r.URL.Query()["pod"]...)
	slices.SortStableFunc(steps, func(a, b Step) int { return a.Start.Compare(b.Start) })
	return steps
}

// perfetto sends steps in the format that Perfetto and Chrome's tracing read: a process for each pod, and in it threads for each side
// of the socket, as many as it takes for a step to lie within the one that it overlaps.
func (p *Page) perfetto(w http.ResponseWriter, r *http.Request) {
	steps, now := p.exported(r), time.Now()
	for i := range steps {
		if steps[i].Running() {
			steps[i].End = now
		}
	}
	groups, events := map[types.UID]int{}, []map[string]any{}
	describe := func(what string, pid, tid int, name string) {
		events = append(events, map[string]any{"name": what, "ph": "M", "pid": pid, "tid": tid, "args": map[string]any{"name": name}})
	}
	type thread struct {
		of      string
		overlap []time.Time // the ends of the steps that go on, each within the one before
	}
	var threads []*thread
	for _, s := range steps {
		if groups[s.Pod] == 0 {
			groups[s.Pod] = len(groups) + 1
			describe("process_name", groups[s.Pod], 0, cmp.Or(s.PodName, "node"))
		}
		side := map[bool]string{false: "kubelet", true: "runtime"}[s.Runtime]
		of := string(s.Pod) + " " + side
		tid := slices.IndexFunc(threads, func(t *thread) bool {
			t.overlap = slices.DeleteFunc(t.overlap, func(end time.Time) bool { return !end.After(s.Start) })
			return t.of == of && (len(t.overlap) == 0 || !s.End.After(t.overlap[len(t.overlap)-1]))
		})
		if tid < 0 {
			tid, threads = len(threads), append(threads, &thread{of: of})
			describe("thread_name", groups[s.Pod], tid+1, side)
		}
		threads[tid].overlap = append(threads[tid].overlap, s.End)
		events = append(events, map[string]any{ // times are in microseconds
			"name": s.Name, "ph": "X", "ts": s.Start.UnixMicro(), "dur": s.End.UnixMicro() - s.Start.UnixMicro(), "pid": groups[s.Pod], "tid": tid + 1,
			"args": map[string]any{"why": s.Why, "error": s.Error, "container": s.Container, "function": s.Function},
		})
	}
	reply(w, map[string]any{"traceEvents": events, "displayTimeUnit": "ms"})
}

// State is what the page shows besides steps. Held and Modes are the page's own.
type State struct {
	Node     string          `json:"node"`
	Version  string          `json:"version"`
	Pods     []story.Summary `json:"pods"` // those that should run; the page adds those of which only steps are left
	Channels []Channel       `json:"channels"`
	Workers  []Worker        `json:"workers"`
	// Writes are the pods whose status is not in the apiserver yet, with the time since when.
	Writes map[types.UID]time.Time `json:"writes"`
	Held   []Held                  `json:"held"`
	Modes  []string                `json:"modes"` // what of --step and --chaos is on
}

// Channel is one that the sync loop reads from.
type Channel struct {
	Name     string `json:"name"`
	Waiting  int    `json:"waiting"`
	Capacity int    `json:"capacity"`
}

// Worker is a pod's goroutine with its mailbox.
type Worker struct {
	Pod   types.UID `json:"pod"`
	Phase string    `json:"phase"`
	Mail  bool      `json:"mail"`  // an update that no step has seen
	Rings bool      `json:"rings"` // there is a reason for another step
}

// state is what is true now, as it is sent.
func (p *Page) state() State {
	s := p.now()
	s.Held = p.steps.Held()
	slices.SortFunc(s.Workers, func(a, b Worker) int { return cmp.Compare(a.Pod, b.Pod) })
	gone := p.recorder.Pods()
	for _, pod := range s.Pods {
		delete(gone, pod.UID)
	}
	for _, uid := range slices.Sorted(maps.Keys(gone)) {
		s.Pods = append(s.Pods, story.Summary{UID: uid, Name: gone[uid], State: "Gone", Gone: true})
	}
	if p.steps != nil {
		s.Modes = append(s.Modes, "--step="+p.steps.text)
	}
	if p.chaos != nil {
		s.Modes = append(s.Modes, "--chaos="+p.chaos.text)
	}
	return s
}
