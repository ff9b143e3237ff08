package timeline

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/kubelet/timeline/story"
)

// node is a page with what it shows.
type node struct {
	*Page
	provider *sdktrace.TracerProvider
	mu       sync.Mutex
	pods     []story.Summary
	channels []Channel
	workers  []Worker
	writes   map[types.UID]time.Time
}

func newNode(t *testing.T, steps *StepMode, chaos *Chaos) *node {
	t.Helper()
	r := NewRecorder()
	if steps != nil {
		steps.Use(t.Context(), r, "node")
	}
	page, err := Listen("0", r, steps, chaos)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Page: page, provider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r))}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context())) // it goes on until the browser has ended
	var runs sync.WaitGroup
	runs.Go(func() {
		page.Run(ctx, func() State {
			n.mu.Lock()
			defer n.mu.Unlock()
			return State{Node: "node-1", Version: "v1.2.3", Pods: slices.Clone(n.pods), Channels: n.channels, Workers: n.workers, Writes: n.writes}
		})
	})
	t.Cleanup(func() { cancel(); runs.Wait() })
	return n
}

func (n *node) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func newPod(name, state string) story.Summary {
	return story.Summary{UID: types.UID("uid-" + name), Name: "default/" + name, State: state, Of: 1, Answer: "It is " + strings.ToLower(state) + "."}
}

// start records what the start of a pod has: steps on both sides of the socket, one after another from a time on.
func (n *node) start(ctx context.Context, pod story.Summary, at time.Time, failure string) {
	tr, rpc := n.provider.Tracer(tracer), n.provider.Tracer("rpc")
	of := trace.WithAttributes(attribute.String("k8s.pod.uid", string(pod.UID)), attribute.String("k8s.pod", pod.Name))
	step := func(ctx context.Context, t trace.Tracer, from, to int, name string, more ...trace.SpanStartOption) (context.Context, func(error)) {
		ctx, span := t.Start(ctx, name, append(more, of, trace.WithTimestamp(at.Add(time.Duration(from)*time.Millisecond)))...)
		return ctx, func(err error) {
			if err != nil {
				span.SetStatus(codes.Error, err.Error())
			}
			span.End(trace.WithTimestamp(at.Add(time.Duration(to) * time.Millisecond)))
		}
	}
	code := func(name, file string, line int) trace.SpanStartOption {
		return trace.WithAttributes(attribute.String("code.function.name", name), attribute.String("code.file.path", file), attribute.Int("code.line.number", line))
	}
	ctx, sync := step(ctx, tr, 0, 150, "syncPod", trace.WithAttributes(attribute.String("step.why", "the pod is new")))
	_, mount := step(ctx, tr, 2, 8, "mountVolumes")
	mount(nil)
	sandbox, made := step(ctx, tr, 9, 90, "createPodSandbox", code("minikubelet/runtime.(*Runtime).createPodSandbox", "minikubelet/runtime/sandbox.go", 24),
		trace.WithAttributes(attribute.String("step.why", "no pod sandbox exists"), attribute.String("step.before", "a: 1\nb: 2\n"), attribute.String("step.after", "a: 1\nb: 3\n")))
	call, called := step(sandbox, rpc, 12, 88, "runtime.v1.RuntimeService/RunPodSandbox", trace.WithSpanKind(trace.SpanKindClient))
	serve, served := step(call, rpc, 13, 87, "runtime.v1.RuntimeService/RunPodSandbox", trace.WithSpanKind(trace.SpanKindServer))
	for i := range 8 {
		_, numbered := step(serve, tr, 13+i*9, 21+i*9, fmt.Sprint("RunPodSandbox ", i+1))
		numbered(nil)
	}
	served(nil)
	called(nil)
	made(nil)
	_, started := step(ctx, tr, 92, 149, "startContainer", trace.WithAttributes(attribute.String("k8s.container.name", "main")))
	if failure != "" {
		started(errors.New(failure))
		sync(errors.New(failure))
		return
	}
	started(nil)
	sync(nil)
}

// browser opens the page in Chromium. What goes wrong on the page fails the test at its end.
func (n *node) browser(t *testing.T) context.Context {
	t.Helper()
	return n.browserAt(t, n.Link(), "/release") // what the kubelet refuses, a browser reports
}

// browserAt is browser with a link. What the browser reports of addresses and errors with a word in them is expected.
func (n *node) browserAt(t *testing.T, link, expected string) context.Context {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil { // as on Ubuntu, which has no such package
		program, err = exec.LookPath("google-chrome")
	}
	if err != nil {
		t.Fatalf("the page is tested in chromium, Debian's package (make deps installs it), or google-chrome: %v", err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.WindowSize(1400, 900))
	ctx, cancel := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(cancel)
	ctx, cancelTab := chromedp.NewContext(ctx)
	t.Cleanup(cancelTab)
	var mu sync.Mutex
	var wrong []string
	err = chromedp.Listen(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *cdpruntime.EventExceptionThrown:
			wrong = append(wrong, fmt.Sprint(e.ExceptionDetails.Text, " ", e.ExceptionDetails.Exception.Description))
		case *cdpruntime.EventConsoleAPICalled:
			wrong = append(wrong, fmt.Sprint("console ", e.Type, " ", string(e.Args[0].Value)))
		case *log.EventEntryAdded:
			if strings.Contains(e.Entry.URL+e.Entry.Text, expected) {
				return
			}
			wrong = append(wrong, fmt.Sprint(e.Entry.Level, " ", e.Entry.Text, " ", e.Entry.URL))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		if len(wrong) > 0 {
			t.Errorf("the browser says:\n%s", strings.Join(wrong, "\n"))
		}
	})
	do(ctx, t, chromedp.Navigate(link))
	until(ctx, t, "the page is live", `document.getElementById("live").textContent === "live" && timeline.store.state !== null`)
	return ctx
}

func do(ctx context.Context, t *testing.T, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition of the page.
func until(ctx context.Context, t *testing.T, what, condition string) {
	t.Helper()
	limited, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := chromedp.Run(limited, chromedp.Poll[chromedp.Void](condition, chromedp.WithPollingInterval(20*time.Millisecond))); err != nil {
		shown, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText.slice(0, 2000)`))
		t.Fatalf("%s (%s): %v\n%s", what, condition, err, shown)
	}
}

func js(ctx context.Context, t *testing.T, expression string) {
	t.Helper()
	do(ctx, t, chromedp.Evaluate[chromedp.Void](expression, chromedp.EvalAwaitPromise))
}

// enter gives a control a value.
func enter(ctx context.Context, t *testing.T, id, value, event string) {
	t.Helper()
	js(ctx, t, fmt.Sprintf(`(() => { const e = document.getElementById(%q); e.value = %q; e.dispatchEvent(new Event(%q)) })()`, id, value, event))
}

// press presses keys on the page.
func press(ctx context.Context, t *testing.T, keys string) {
	t.Helper()
	do(ctx, t, chromedp.KeyEvent(keys))
}

const rows = `[...document.querySelectorAll(".row")]`

// TestPage: what happens appears, and every control does what it says.
func TestPage(t *testing.T) {
	n := newNode(t, nil, nil)
	web, bad := newPod("web", "Ready"), newPod("bad", "Pending (main: ImagePullBackOff)")
	evil := newPod(`<img src=x onerror=alert(1)>`, "Ready")
	n.set(func() {
		n.pods = []story.Summary{web, bad, evil}
		n.channels = []Channel{{"updates", 1, 50}}
		n.workers = []Worker{{Pod: "uid-web", Phase: "syncing", Mail: true}}
		n.writes = map[types.UID]time.Time{"uid-bad": time.Now()}
	})
	base := time.Now().Add(-time.Minute)
	n.start(t.Context(), web, base, "")
	ctx := n.browser(t)
	until(ctx, t, "the first steps are there", rows+`.length === 14 && document.getElementById("count").textContent === "14 steps"`)

	t.Log("live")
	n.start(t.Context(), bad, base.Add(time.Second), "no such image")
	until(ctx, t, "new steps appear", `document.getElementById("count").textContent === "28 steps"`)
	n.set(func() { n.pods = append(n.pods, newPod("late", "Pending (main: ContainerCreating)")) })
	until(ctx, t, "a new pod appears", `document.getElementById("pod-list").textContent.includes("default/late")`)
	openCtx, open := n.provider.Tracer(tracer).Start(t.Context(), "pullImage", trace.WithAttributes(attribute.String("k8s.pod.uid", "uid-late"), attribute.String("k8s.pod", "default/late")))
	_ = openCtx
	open.AddEvent("3 of 9 MB")
	until(ctx, t, "a step that goes on says how far it is", rows+`.some((r) => r.textContent.includes("pullImage") && r.textContent.includes("3 of 9 MB"))`)
	until(ctx, t, "markup of a pod is text", `document.getElementById("pod-list").textContent.includes("onerror=alert(1)>") && !document.querySelector("img")`)

	t.Log("filters")
	js(ctx, t, `document.getElementById("open").click()`)
	until(ctx, t, "only what goes on", rows+`.length === 1`)
	js(ctx, t, `document.getElementById("open").click(); document.getElementById("errors").click()`)
	until(ctx, t, "only what failed", rows+`.length === 2 && document.getElementById("count").textContent === "2 of 29 steps"`)
	js(ctx, t, `document.getElementById("errors").click()`)
	enter(ctx, t, "side", "runtime", "change")
	until(ctx, t, "the runtime's side", rows+`.length === 18`)
	enter(ctx, t, "side", "", "change")
	press(ctx, t, "/")
	until(ctx, t, "the search has the focus", `document.activeElement.id === "search"`)
	enter(ctx, t, "search", "", "input") // the key itself is typed too, since Chromium is sent it as a character of its own
	do(ctx, t, chromedp.SendKeys("#search", "createpod bad"))
	until(ctx, t, "search", rows+`.length === 1 && location.hash === "#q=createpod+bad"`)
	enter(ctx, t, "search", "", "input")
	do(ctx, t, chromedp.SendKeys("#find-pod", "web"))
	until(ctx, t, "a pod is found", `document.querySelectorAll("#pod-list a").length === 3`)
	enter(ctx, t, "find-pod", "", "input")
	enter(ctx, t, "phase", "Pending", "change")
	until(ctx, t, "pods of a phase", `document.querySelectorAll("#pod-list a").length === 4`)
	js(ctx, t, `location.hash = ""`)
	until(ctx, t, "all pods again", `document.querySelectorAll("#pod-list a").length === 6`)

	t.Log("one pod and one step")
	do(ctx, t, chromedp.Click(`a[title="default/web"]`))
	until(ctx, t, "one pod's steps, as a tree", rows+`.length === 14 && document.querySelector("#about h2").textContent === "default/webReady" && document.querySelector("#about p").textContent === "It is ready."`)
	do(ctx, t, chromedp.Evaluate[chromedp.Void](rows+`.find((r) => r.textContent.startsWith("createPodSandbox")).scrollIntoView()`),
		chromedp.Click(`//div[contains(@class,"row")][contains(., "createPodSandbox")]`))
	until(ctx, t, "the step with its reason, its change and its source", `(() => { const d = document.getElementById("detail").textContent;
		return d.includes("no pod sandbox exists") && d.includes("+ b: 3") && d.includes("func (r *Runtime) createPodSandbox(") && d.includes("runtime/sandbox.go:24") && d.includes("(*kubeGenericRuntimeManager).createPodSandbox") && document.querySelector("#detail mark") })()`)
	address, err := chromedp.Run(ctx, chromedp.Location())
	if err != nil {
		t.Fatal(err)
	}
	until(ctx, t, "the row is chosen", `document.querySelector('[aria-selected="true"]').textContent.startsWith("createPodSandbox")`)
	press(ctx, t, "\u001b")
	until(ctx, t, "closed", `document.getElementById("detail").hidden && document.activeElement.id === "steps"`)
	press(ctx, t, "jj\r")
	until(ctx, t, "by keyboard", `!document.getElementById("detail").hidden && document.querySelector("#detail h2").textContent === "RunPodSandbox"`)
	press(ctx, t, "z")
	until(ctx, t, "only the step and its parts", `document.getElementById("count").textContent === "9 of 14 steps" && !document.getElementById("whole").hidden`)
	do(ctx, t, chromedp.Click("#whole"))
	until(ctx, t, "all of the pod", `document.getElementById("count").textContent === "14 steps"`)
	shots(ctx, t, "step")
	press(ctx, t, "[")
	until(ctx, t, "the pod before", `document.querySelector("#pod-list [aria-current]").title !== "default/web"`)
	do(ctx, t, chromedp.Navigate("about:blank"), chromedp.Navigate(address))
	until(ctx, t, "the permalink leads back", `document.querySelector("#detail h2")?.textContent === "createPodSandbox"`)

	t.Log("views")
	for key, want := range map[string]string{"2": "updates150", "3": "default/websyncingwaitsan update", "4": "RunPodSandbox020", "5": "default/badwaits"} {
		press(ctx, t, key)
		until(ctx, t, "view "+key, fmt.Sprintf(`[...document.querySelectorAll("#table tr")].some((r) => r.textContent.startsWith(%q))`, want))
	}
	press(ctx, t, "1")
	until(ctx, t, "steps again", `document.getElementById("table").hidden`)

	t.Log("pause, theme, keys")
	press(ctx, t, "p")
	until(ctx, t, "paused", `document.getElementById("pause").getAttribute("aria-pressed") === "true"`)
	open.End()
	n.start(t.Context(), evil, base.Add(2*time.Second), "")
	js(ctx, t, `new Promise((done) => setTimeout(done, 700))`)
	until(ctx, t, "nothing new while paused", `timeline.store.pods.get("uid-<img src=x onerror=alert(1)>") === undefined`)
	do(ctx, t, chromedp.Click("#pause"))
	until(ctx, t, "then all of it", `timeline.store.pods.get("uid-<img src=x onerror=alert(1)>")?.steps.length === 14 && timeline.store.pods.get("uid-late").steps[0].to !== null`)
	js(ctx, t, `document.documentElement.dataset.theme = ""`)
	press(ctx, t, "t")
	until(ctx, t, "the other theme", `document.documentElement.dataset.theme === "dark" && localStorage.getItem("theme") === "dark"`)
	press(ctx, t, "?")
	until(ctx, t, "keys", `document.getElementById("keys").open`)
	press(ctx, t, "\u001b")
	until(ctx, t, "closed", `!document.getElementById("keys").open`)
	until(ctx, t, "exports", `document.getElementById("json").href.endsWith("/steps.json?pod=uid-web") && document.getElementById("perfetto").href.endsWith("/perfetto.json?pod=uid-web")`)
	until(ctx, t, "every control has a name", `[...document.querySelectorAll("button, input, select, a[href], [role]")].every((e) => e.ariaLabel || e.textContent.trim() || e.labels?.length || e.getAttribute("aria-labelledby") || e.hidden || e.closest("[hidden]") || e.getAttribute("role") === "status" || e.getAttribute("role") === "alert")`)
	shots(ctx, t, "page")
}

// TestHeldOnPage: what is held is shown, and goes on as it was changed there.
func TestHeldOnPage(t *testing.T) {
	steps, err := ParseStep("CreateContainer@web")
	if err != nil {
		t.Fatal(err)
	}
	chaos, err := ParseChaos("RunPodSandbox=error:0.3")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, steps, chaos)
	n.set(func() { n.pods = []story.Summary{newPod("web", "Pending (main: ContainerCreating)")} })
	n.start(t.Context(), n.pods[0], time.Now(), "")
	ctx := n.browser(t)
	until(ctx, t, "both modes are loud", `!document.getElementById("modes").hidden && document.getElementById("modes").textContent.includes("--step=CreateContainer@web --chaos=RunPodSandbox=error:0.3")`)
	sent := make(chan *runtimeapi.CreateContainerRequest, 1)
	go func() { sent <- n.create(t, steps) }()
	until(ctx, t, "the call is held", `document.querySelector("#held form")?.textContent.includes("CreateContainer is held: default/web, main")`)
	shots(ctx, t, "held")
	do(ctx, t, chromedp.SetValue(`#held [name=env]`, "no equals sign"), chromedp.Click("#held button"))
	until(ctx, t, "what cannot be is refused", `document.querySelector("#held .bad").textContent.includes("want NAME=VALUE")`)
	do(ctx, t, chromedp.SetValue(`#held [name=env]`, "COLOR=green\nB="), chromedp.SetValue(`#held [name=command]`, "/bin/other"), chromedp.Click("#held button"))
	got := <-sent
	if c := got.Config; len(c.Envs) != 2 || string(c.Envs[0].Value) != "green" || len(c.Command) != 1 || c.Command[0] != "/bin/other" || len(c.Args) != 1 || c.Args[0] != script || c.Metadata.Name != "main" {
		t.Errorf("sent %v", c)
	}
	until(ctx, t, "nothing is held", `document.getElementById("held").hidden`)
}

// TestManySteps: 100 pods with 10,000 steps are shown without a stutter.
func TestManySteps(t *testing.T) {
	n := newNode(t, nil, nil)
	base := time.Now().Add(-time.Hour)
	for i := range 100 {
		pod := newPod(fmt.Sprintf("pod-%03d", i), "Ready")
		n.pods = append(n.pods, pod)
		for k := range 7 {
			n.start(t.Context(), pod, base.Add(time.Duration(i)*time.Second+time.Duration(k)*7*time.Minute), "")
		}
	}
	began := time.Now()
	ctx := n.browser(t)
	until(ctx, t, "all is there", `document.getElementById("count").textContent === "9800 steps" && document.querySelectorAll("#pod-list a").length === 102`)
	t.Logf("9800 steps are shown %.2f s after the browser was started", time.Since(began).Seconds())
	js(ctx, t, `performance.clearMeasures("draw")`)
	for i := range 20 { // while it is used: new steps, scrolling
		n.start(t.Context(), n.pods[i], time.Now(), "")
		js(ctx, t, fmt.Sprintf(`document.getElementById("steps").scrollTop = %d; new Promise((done) => setTimeout(done, 100))`, i*9000))
	}
	result, err := chromedp.Run(ctx, chromedp.Evaluate[struct{ Rows, Draws, Median, Most float64 }](`(() => { const all = performance.getEntriesByName("draw").map((e) => e.duration).sort((a, b) => a - b);
		return { Rows: document.querySelectorAll(".row").length, Draws: all.length, Median: all[all.length >> 1], Most: all.at(-1) } })()`))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.0f draws, the median takes %.1f ms, the longest %.1f ms", result.Draws, result.Median, result.Most)
	if result.Draws == 0 || result.Rows > 100 { // rows that are out of sight would make each draw slow
		t.Errorf("%+v: nothing was drawn, or more than is seen", result)
	}
	shots(ctx, t, "many")
}

// shots takes pictures in both themes, wide and narrow, into the directory that TIMELINE_SHOTS names, if it does.
func shots(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	dir := os.Getenv("TIMELINE_SHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	for _, theme := range []string{"light", "dark"} {
		for _, width := range []int64{1400, 420} {
			js(ctx, t, fmt.Sprintf(`document.documentElement.dataset.theme = %q`, theme))
			do(ctx, t, chromedp.EmulateViewport(width, 900), chromedp.Sleep(300*time.Millisecond))
			until(ctx, t, "nothing sticks out", `document.documentElement.scrollWidth <= innerWidth`)
			picture, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%s-%d.png", name, theme, width)), picture, 0o600); err != nil {
				t.Error(err)
			}
		}
	}
	do(ctx, t, chromedp.ResetViewport())
}

// TestGuard: only loopback hosts with the token get an answer, and what is sent must come from the page.
func TestGuard(t *testing.T) {
	n := newNode(t, nil, nil)
	address := "http://" + n.listener.Addr().String()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, tc := range []struct {
		name, method, path, host string
		header                   map[string]string
		want                     int
	}{
		{"link", "GET", "/?token=" + n.token, "", nil, http.StatusSeeOther},
		{"bearer", "GET", "/", "", map[string]string{"Authorization": "Bearer " + n.token}, http.StatusOK},
		{"cookie", "GET", "/page/app.js", "localhost:1", map[string]string{"Cookie": n.cookie + "=" + n.token}, http.StatusOK},
		{"no token", "GET", "/", "", nil, http.StatusUnauthorized},
		{"asset without token", "GET", "/page/app.js", "", nil, http.StatusUnauthorized},
		{"wrong token", "GET", "/steps.json", "", map[string]string{"Authorization": "Bearer x"}, http.StatusUnauthorized},
		{"another host", "GET", "/?token=" + n.token, "evil.example:80", nil, http.StatusMisdirectedRequest},
		{"another address", "GET", "/?token=" + n.token, "10.0.0.1", nil, http.StatusMisdirectedRequest},
		{"IPv6", "GET", "/?token=" + n.token, "[::1]:8080", nil, http.StatusSeeOther},
		{"another site", "POST", "/release", "", map[string]string{"Authorization": "Bearer " + n.token, "Origin": "http://evil.example"}, http.StatusForbidden},
		{"no step mode", "POST", "/release", "", map[string]string{"Authorization": "Bearer " + n.token}, http.StatusBadRequest},
		{"no such step", "GET", "/step?id=1", "", map[string]string{"Authorization": "Bearer " + n.token}, http.StatusNotFound},
		{"export", "GET", "/perfetto.json", "", map[string]string{"Authorization": "Bearer " + n.token}, http.StatusOK},
		{"no file", "GET", "/page/..%2f..%2fpage.go", "", map[string]string{"Authorization": "Bearer " + n.token}, http.StatusBadRequest},
	} {
		request, err := http.NewRequestWithContext(t.Context(), tc.method, address+tc.path, strings.NewReader(`{"id": 1}`))
		if err != nil {
			t.Fatal(err)
		}
		request.Host = tc.host
		for key, value := range tc.header {
			request.Header.Set(key, value)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != tc.want || !strings.Contains(response.Header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: %s, want %d", tc.name, response.Status, tc.want)
		}
	}
	for listen, want := range map[string]string{"10.0.0.1:80": "on loopback only", "x": "want a port", "127.0.0.1:99999": "want a port", "example.com:1": "on loopback only"} {
		if _, err := Listen(listen, nil, nil, nil); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "--timeline: ") {
			t.Errorf("%s: %v, want one with %q", listen, err, want)
		}
	}
}
