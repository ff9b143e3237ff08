package timeline

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/kubelet/timeline/story"
)

// evaluate returns what an expression of the page is.
func evaluate[T any](ctx context.Context, t *testing.T, expression string) T {
	t.Helper()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// threePods is a page with three pods of 14 steps each, and one call that is held.
func threePods(t *testing.T) (*node, *StepMode) {
	t.Helper()
	steps, err := ParseStep("CreateContainer@web")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, steps, nil)
	n.pods = []story.Summary{newPod("bad", "Pending (main: ImagePullBackOff)"), newPod("db", "Ready"), newPod("web", "Ready")}
	n.channels = []Channel{{"updates", 1, 50}}
	for i, pod := range n.pods {
		pod.UID = types.UID(pod.Name[len("default/"):])
		n.pods[i] = pod
		failure := ""
		if i == 0 {
			failure = "no such image"
		}
		n.workers = append(n.workers, Worker{Pod: pod.UID, Phase: "syncing"})
		n.start(t.Context(), pod, time.Now().Add(time.Duration(i-60)*time.Second), failure)
	}
	return n, steps
}

const chosenRow = `+document.querySelector('.row[aria-selected="true"]')?.getAttribute("aria-posinset")`

// TestKeys: each key of the list that ? shows does what the list says.
func TestKeys(t *testing.T) {
	n, steps := threePods(t)
	released := make(chan bool)
	go func() { released <- n.create(t, steps) != nil }()
	ctx := n.browser(t)
	at := func(what string, row int) {
		t.Helper()
		until(ctx, t, what, fmt.Sprintf("%s === %d", chosenRow, row))
	}
	until(ctx, t, "all steps, and one that is held", rows+`.length > 10 && document.getElementById("count").textContent === "43 steps" && document.querySelector("#held form")`)
	does := []struct {
		key string
		try func()
	}{
		{"/", func() {
			press(ctx, t, "/")
			until(ctx, t, "the search has the focus", `document.activeElement.id === "search"`)
			press(ctx, t, kb.Escape)
			enter(ctx, t, "search", "", "input")
		}},
		{"↓ ↑ or j k", func() {
			for i, key := range []string{kb.ArrowDown, "j", "k", kb.ArrowDown, kb.ArrowDown, kb.ArrowUp} {
				press(ctx, t, key)
				at("after "+key, []int{1, 2, 1, 2, 3, 2}[i])
			}
		}},
		{"Page, Home, End", func() {
			for i, key := range []string{kb.End, kb.Home, kb.PageDown, kb.PageUp} {
				press(ctx, t, key)
				at("after "+key, []int{43, 1, 16, 1}[i])
			}
			until(ctx, t, "the first is in sight", `document.getElementById("steps").scrollTop === 0`)
		}},
		{"Enter", func() {
			press(ctx, t, kb.End+"k\r")
			until(ctx, t, "the chosen step is open", `document.querySelector("#detail h2")?.textContent.trim() === `+rows+`.find((r) => r.ariaSelected === "true").ariaLabel.split(",")[0]`)
		}},
		{"Esc", func() {
			press(ctx, t, kb.Escape)
			until(ctx, t, "it is closed", `document.getElementById("detail").hidden && document.activeElement.id === "steps"`)
		}},
		{"[ ]", func() {
			for i, key := range []string{"]", "]", "]", "["} {
				press(ctx, t, key)
				until(ctx, t, "after "+key, fmt.Sprintf(`document.querySelector("#about h2").textContent.startsWith(%q)`, []string{"The node", "default/bad", "default/db", "default/bad"}[i]))
			}
		}},
		{"1 … 5", func() {
			for key, view := range strings.Fields("Loop Workers CRI Status Steps") {
				press(ctx, t, string("23451"[key]))
				until(ctx, t, view, fmt.Sprintf(`document.querySelector("#views [aria-current]").textContent.startsWith(%q) && document.getElementById("table").hidden === %v`, view, view == "Steps"))
			}
		}},
		{"z", func() {
			press(ctx, t, kb.Home+"jjjz")
			until(ctx, t, "a step and its parts", `document.getElementById("count").textContent === "10 of 14 steps"`)
			press(ctx, t, "z")
			until(ctx, t, "all of the pod", `document.getElementById("count").textContent === "14 steps"`)
		}},
		{"p", func() {
			for _, stands := range []string{"true", "false"} {
				press(ctx, t, "p")
				until(ctx, t, "stands still: "+stands, `document.getElementById("pause").ariaPressed === "`+stands+`"`)
			}
		}},
		{"t", func() {
			before := evaluate[string](ctx, t, `getComputedStyle(document.body).backgroundColor`)
			press(ctx, t, "t")
			until(ctx, t, "the other theme", `getComputedStyle(document.body).backgroundColor !== "`+before+`"`)
			press(ctx, t, "t")
			until(ctx, t, "the first theme", `getComputedStyle(document.body).backgroundColor === "`+before+`"`)
		}},
		{"r", func() {
			press(ctx, t, "r")
			if !<-released {
				t.Error("the held call was not sent")
			}
			until(ctx, t, "nothing is held", `document.getElementById("held").hidden`)
		}},
		{"?", func() {
			press(ctx, t, "?")
			until(ctx, t, "the list is there", `document.getElementById("keys").open`)
			press(ctx, t, kb.Escape)
			until(ctx, t, "and is not", `!document.getElementById("keys").open`)
		}},
	}
	listed := evaluate[[]string](ctx, t, `[...document.querySelectorAll("#key-list dt")].map((e) => e.textContent)`)
	for i, key := range listed {
		if i >= len(does) || does[i].key != key {
			t.Fatalf("the list has %q, of which nothing is known here", listed)
		}
		does[i].try()
	}

	// Elsewhere than at the steps the keys that move are the browser's.
	press(ctx, t, kb.Home)
	at("at the steps", 1)
	press(ctx, t, "3")
	until(ctx, t, "the view of workers", `!document.getElementById("table").hidden`)
	press(ctx, t, kb.End+"\r1")
	until(ctx, t, "no step was chosen or opened where none is seen", chosenRow+` === 1 && document.getElementById("detail").hidden && document.getElementById("table").hidden`)
	press(ctx, t, kb.Home+"jj\r")
	until(ctx, t, "a step with its source", `document.querySelector("#detail .code")`)
	js(ctx, t, `document.querySelector("#detail button").focus()`)
	do(ctx, t, chromedp.EmulateViewport(1400, 300))
	press(ctx, t, kb.PageDown)
	until(ctx, t, "what is open was moved, not the choice", `document.getElementById("detail").scrollTop > 0 && `+chosenRow+` === 3`)
}

// TestPermalink: an address that is opened afresh shows what was seen where it is from.
func TestPermalink(t *testing.T) {
	n, _ := threePods(t)
	for i := range 10 {
		n.start(t.Context(), n.pods[2], time.Now().Add(time.Duration(i-30)*time.Second), "")
	}
	ctx := n.browser(t)
	seen := `JSON.stringify({
		chosen: [...document.querySelectorAll('#steps:not([hidden]) .row[aria-selected="true"]')].filter((r) => r.offsetTop >= r.offsetParent.parentElement.scrollTop && r.offsetTop + 26 <= r.offsetParent.parentElement.scrollTop + r.offsetParent.parentElement.clientHeight).map((r) => r.id), inputs: [...document.querySelectorAll("main input, main select")].map((e) => e.type === "checkbox" ? e.checked : e.value),
		pods: document.getElementById("pod-list").innerText, pod: document.querySelector("#pod-list [aria-current]")?.title, detail: document.querySelector("#detail:not([hidden]) h2")?.textContent, view: document.querySelector("#views [aria-current]")?.textContent,
		table: document.querySelector("#table:not([hidden])")?.innerText, count: document.querySelector("#filters:not([hidden]) #count")?.textContent, json: document.getElementById("json").href })`
	for name, make := range map[string]func(){
		"a search": func() {
			js(ctx, t, `location.hash = ""`)
			until(ctx, t, "all", `document.getElementById("count").textContent === "182 steps"`)
			enter(ctx, t, "search", "default/bad", "input")
			enter(ctx, t, "side", "kubelet", "change")
			enter(ctx, t, "phase", "Pending", "change")
			enter(ctx, t, "find-pod", "ba", "input")
			js(ctx, t, `document.getElementById("errors").click()`)
			until(ctx, t, "what is found", `document.getElementById("count").textContent === "2 of 182 steps" && document.querySelectorAll("#pod-list a").length === 3`)
		},
		"a step far down": func() {
			js(ctx, t, `location.hash = "#pod=web"`)
			until(ctx, t, "one pod", `document.getElementById("count").textContent === "154 steps"`)
			press(ctx, t, kb.Home)
			press(ctx, t, kb.End+"kk\r")
			until(ctx, t, "a step of it", `document.querySelector("#detail:not([hidden]) h2")?.textContent === "RunPodSandbox 7" && `+chosenRow+` === 152`)
		},
		"a step among all": func() {
			js(ctx, t, `location.hash = ""`)
			until(ctx, t, "all", `document.getElementById("count").textContent === "182 steps"`)
			press(ctx, t, kb.Home)
			press(ctx, t, "jjj\r")
			until(ctx, t, "a step of it", `document.querySelector("#detail:not([hidden]) h2")?.textContent === "RunPodSandbox" && `+chosenRow+` === 4`)
		},
		"another view": func() {
			press(ctx, t, "4")
			until(ctx, t, "the calls", `document.getElementById("table").innerText.includes("RunPodSandbox")`)
		},
	} {
		make()
		address, err := chromedp.Run(ctx, chromedp.Location())
		if err != nil {
			t.Fatal(err)
		}
		want := evaluate[string](ctx, t, seen)
		tab, cancel := chromedp.NewContext(ctx)
		do(tab, t, chromedp.Navigate(address))
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if got := evaluate[string](tab, t, seen); got == want {
				break
			} else if time.Now().After(deadline) {
				t.Errorf("%s: %s shows\n%s\nwant\n%s", name, address, got, want)
				break
			}
		}
		cancel()
	}
}

// accessible is what a screen reader is told of the page: each node that has a role, with its name.
func accessible(ctx context.Context, t *testing.T) (nodes [][2]string) {
	t.Helper()
	tree, err := chromedp.Call(ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	if err != nil {
		t.Fatal(err)
	}
	text := func(v *accessibility.Value) (s string) {
		if v != nil {
			_ = json.Unmarshal(v.Value, &s)
		}
		return strings.Join(strings.Fields(s), " ")
	}
	for _, node := range tree.Nodes {
		if role := text(node.Role); !node.Ignored && role != "" {
			nodes = append(nodes, [2]string{role, text(node.Name)})
		}
	}
	return nodes
}

// TestScreenReader: who does not see the page is told of each control, of its structure and of what changes, keeps the place, and
// reaches all by keyboard.
func TestScreenReader(t *testing.T) {
	n, steps := threePods(t)
	sent := make(chan bool)
	go func() { sent <- n.create(t, steps) != nil }()
	ctx := n.browser(t)
	until(ctx, t, "all is there", `document.querySelector("#held form") && `+rows+`.length > 10`)

	t.Log("the structure")
	states := []struct {
		name, script, ready string
		has                 []string // ROLE NAME, whose name may have more at its end
	}{
		{"steps", `location.hash = "#pod=web"`, `document.getElementById("count").textContent === "15 steps"`, []string{
			"banner ", "main ", "navigation Views", "link Steps", "region Pods", "searchbox Pods", "combobox Phase", "list ", "listitem ", "link All steps", "link The node", "link default/web",
			"heading kubelet timeline", "heading default/web", "searchbox Search steps", "combobox Side of the socket", "checkbox failed only", "checkbox going on only", "link JSON", "link Perfetto",
			"listbox Steps", "option createPodSandbox, default/web, ", "option RunPodSandbox, default/web, runtime, ", "button Pause", "button Theme", "button Keys", "status ",
			"region Held steps", "button Release", "textbox command, one a line", "textbox args, one a line", "textbox env, one a line",
		}},
		{"detail", `location.hash = "#pod=web&step=" + timeline.of("web").steps.find((s) => s.name === "createPodSandbox").id`, `document.querySelector("#detail .code")`, []string{
			"complementary The chosen step", "button Close the step", "heading SOURCE",
		}},
		{"table", `location.hash = "#view=workers"`, `document.querySelectorAll("#table tr").length === 4`, []string{
			"heading A goroutine for each pod, with its mailbox", "region A goroutine for each pod, with its mailbox", "table ", "columnheader pod", "row ", "cell default/db", "link default/db",
		}},
		{"keys", `location.hash = ""; document.getElementById("help").click()`, `document.getElementById("keys").open`, []string{"dialog Keys", "heading Keys", "button Close"}},
	}
	for _, state := range states {
		js(ctx, t, state.script)
		until(ctx, t, state.name, state.ready)
		nodes := accessible(ctx, t)
		for _, want := range state.has {
			role, name, _ := strings.Cut(want, " ")
			if !slices.ContainsFunc(nodes, func(n [2]string) bool { return n[0] == role && strings.HasPrefix(n[1], name) }) {
				t.Errorf("%s: a screen reader is told of no %s", state.name, want)
			}
		}
		for _, node := range nodes {
			if node[1] == "" && slices.Contains([]string{"button", "link", "searchbox", "textbox", "combobox", "checkbox", "listbox", "option", "dialog", "region", "navigation", "complementary", "heading", "columnheader"}, node[0]) {
				t.Errorf("%s: a %s has no name", state.name, node[0])
			}
		}
		levels := evaluate[[]int](ctx, t, `[...document.querySelectorAll("h1, h2, h3, h4")].filter((e) => e.checkVisibility()).map((e) => +e.tagName[1])`)
		for i, level := range levels {
			if (i == 0) != (level == 1) || i > 0 && level > levels[i-1]+1 {
				t.Errorf("%s: headings of the levels %v", state.name, levels)
			}
		}
	}
	press(ctx, t, kb.Escape)

	t.Log("by keyboard")
	js(ctx, t, `location.hash = "#pod=web"; document.activeElement.blur(); getSelection().removeAllRanges()`)
	until(ctx, t, "one pod", rows+`.length === 15`)
	var order []string
	for range 60 {
		press(ctx, t, kb.Tab)
		at := evaluate[[]string](ctx, t, `(() => { const e = document.activeElement, s = getComputedStyle(e);
			return [e === document.body ? "" : e.id || e.name || e.title || e.textContent.slice(0, 20), s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 ? "" : "no outline"] })()`)
		if at[0] == "" || len(order) > 0 && at[0] == order[0] {
			break
		}
		if order = append(order, at[0]); at[1] != "" {
			t.Errorf("who comes to %q by keyboard does not see it", at[0])
		}
	}
	if got := strings.Join(order, " | "); got != "Skip to the steps | pause | theme | help | Release | command | args | env | The request | Steps (1) | Loop (2) | Workers (3) | CRI calls (4) | Status writes (5) | find-pod | phase | All steps | The node | default/bad | default/db | default/web | search | side | errors | open | json | perfetto | steps" {
		t.Errorf("the order is\n%s", got)
	}
	js(ctx, t, `document.querySelector(".skip").focus()`)
	press(ctx, t, "\r")
	until(ctx, t, "the link that skips leads to the steps, of the same pod", `document.activeElement.id === "steps" && location.hash === "#pod=web"`)

	t.Log("what changes")
	js(ctx, t, `globalThis.said = []; new MutationObserver((all) => said.push(...all.map((m) => m.target.parentElement?.closest("[role=status], [role=alert], [aria-live]:not([aria-live=off])")?.id ?? m.target.id).filter((id) => document.getElementById(id)?.matches("[role=status], [role=alert], [aria-live]:not([aria-live=off])"))))
		.observe(document.body, { subtree: true, childList: true, characterData: true })`)
	n.start(t.Context(), n.pods[2], time.Now(), "")
	until(ctx, t, "new steps", `document.getElementById("count").textContent === "29 steps"`)
	if said := evaluate[[]string](ctx, t, `said`); len(said) > 0 {
		t.Errorf("each new step is said aloud, by %q", said)
	}
	n.set(func() { n.pods[1].State = "Failed" })
	until(ctx, t, "a pod's change is said", `document.getElementById("say").textContent === "default/db: failed" && said.includes("say")`)

	t.Log("the place is kept")
	keeps := func(what, view, focus, changed string, change func()) {
		t.Helper()
		js(ctx, t, `location.hash = "`+view+`"`)
		until(ctx, t, what, `(() => { const e = `+focus+`; e?.focus(); return document.activeElement === e })()`)
		change()
		until(ctx, t, what+", drawn anew", changed)
		until(ctx, t, what+" keeps the focus", `document.activeElement === `+focus)
	}
	keeps("a pod", "#pod=db", `document.querySelector('#pod-list [title="default/web"]')`, `document.getElementById("pod-list").innerText.includes("Failed (a)")`, func() {
		n.set(func() { n.pods[1].State = "Failed (a)" })
	})
	keeps("a link in a table", "#view=workers", `[...document.querySelectorAll("#table a")].find((a) => a.textContent === "default/web")`, `document.getElementById("table").innerText.includes("terminating")`, func() {
		n.set(func() { n.workers[0].Phase = "terminating" })
	})
	do(ctx, t, chromedp.EmulateViewport(1000, 420))
	n.set(func() {
		for i := range 60 {
			n.workers = append(n.workers, Worker{Pod: types.UID(fmt.Sprint("uid-more-", i)), Phase: "syncing"})
		}
	})
	keeps("a long table", "#view=workers", `document.querySelector("#table .scroll")`, `document.getElementById("table").innerText.includes("terminated") && document.querySelector("#table .scroll").scrollTop === 200`, func() {
		until(ctx, t, "it is long", `document.querySelectorAll("#table tr").length > 60`)
		js(ctx, t, `document.querySelector("#table .scroll").scrollTop = 200`)
		n.set(func() { n.workers[0].Phase = "terminated" })
	})
	until(ctx, t, "a step", `(() => { location.hash = "#pod=web&step=" + timeline.of("web").steps.find((s) => s.name === "createPodSandbox").id; return document.querySelector("#detail .code") })()`)
	keeps("the source", "#pod=web&view=&step="+evaluate[string](ctx, t, `timeline.of("web").steps.find((s) => s.name === "createPodSandbox").id`), `document.querySelector("#detail .code")`,
		`document.getElementById("detail").innerText.includes("minikubelet") || true`, func() {
			js(ctx, t, `document.querySelector("#detail .code").scrollTop = 40; delete document.getElementById("detail").dataset.key; dispatchEvent(new Event("hashchange"))`)
			until(ctx, t, "where it was", `document.getElementById("detail").dataset.key && document.querySelector("#detail .code").scrollTop === 40`)
		})
	js(ctx, t, `document.querySelector("#held button").focus()`)
	press(ctx, t, "\r")
	if !<-sent {
		t.Error("the held call was not sent")
	}
	until(ctx, t, "who released the last step is at the steps", `document.getElementById("held").hidden && document.activeElement.id === "steps"`)
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}}}); err != nil {
		t.Fatal(err)
	}
	until(ctx, t, "nothing moves by itself", `document.getAnimations().length === 0 && [...document.querySelectorAll("*")].every((e) => getComputedStyle(e).transitionDuration === "0s" && getComputedStyle(e).animationName === "none")`)
}

// faint returns the texts of the page whose contrast is below 4.5, as WCAG 2 computes it.
const faint = `(() => {
	const rgb = (s) => { const m = s.match(/[\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1] };
	const over = (f, b) => [0, 1, 2].map((i) => f[i] * f[3] + b[i] * (1 - f[3])).concat(1);
	const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
	const behind = (e) => { const all = []; for (let x = e; x; x = x.parentElement) { all.unshift(rgb(getComputedStyle(x).backgroundColor)); if (all[0][3] === 1) break } return all.reduce((b, f) => over(f, b)) };
	const ratio = (color, back) => { const [a, b] = [light(over(rgb(color), back)), light(back)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05) };
	const found = new Set();
	for (const e of document.querySelectorAll("body *")) {
		if (!e.checkVisibility({ visibilityProperty: true }) || e.closest(".skip, .hidden, noscript")) continue;
		const texts = /^(INPUT|SELECT|TEXTAREA)$/.test(e.tagName) ? [[e.value, null], [e.placeholder, "::placeholder"]] : [[[...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join("").trim(), null]];
		for (const [text, part] of texts) {
			const color = getComputedStyle(e, part).color, r = ratio(color, behind(e));
			if (text && r < 4.5) found.add(` + "`${e.tagName}.${e.className} ${text.slice(0, 20)}: ${r.toFixed(2)}, ${color} on ${behind(e).slice(0, 3).map(Math.round)}`" + `);
		}
	}
	return [...found];
})()`

// TestContrast: in both themes each text can be told from what is behind it, and on narrow screens too nothing sticks out.
func TestContrast(t *testing.T) {
	n, steps := threePods(t)
	sent := make(chan bool, 1)
	go func() { sent <- n.create(t, steps) != nil }()
	ctx := n.browser(t)
	until(ctx, t, "all is there", `document.querySelector("#held form") && `+rows+`.length > 10`)
	for _, theme := range []string{"light", "dark"} {
		js(ctx, t, `document.documentElement.dataset.theme = "`+theme+`"`)
		for name, state := range map[string][2]string{
			"a step":  {`location.hash = "#pod=bad&step=" + timeline.of("bad").steps.find((s) => s.name === "createPodSandbox").id; document.querySelector("#held details").open = true`, `document.querySelector("#detail mark")`},
			"all":     {`location.hash = ""`, `document.getElementById("count").textContent === "43 steps" && document.getElementById("detail").hidden`},
			"a table": {`location.hash = "#view=calls"`, `document.querySelector("#table td")`},
			"keys":    {`document.getElementById("help").click()`, `document.getElementById("keys").open`},
			"paused":  {`document.getElementById("keys").close(); if (document.getElementById("pause").ariaPressed === "false") document.getElementById("pause").click()`, `document.body.classList.contains("paused")`},
		} {
			js(ctx, t, state[0])
			until(ctx, t, name, state[1])
			if texts := evaluate[[]string](ctx, t, faint); len(texts) > 0 {
				t.Errorf("%s, %s: texts that are hard to read:\n%s", theme, name, strings.Join(texts, "\n"))
			}
		}
	}
	if err := steps.Release(1, nil); err != nil || !<-sent {
		t.Error(err)
	}
	for _, width := range []int64{320, 700, 1100} {
		do(ctx, t, chromedp.EmulateViewport(width, 640))
		for _, hash := range []string{"#pod=bad", "#view=calls", ""} {
			js(ctx, t, `location.hash = "`+hash+`"`)
			until(ctx, t, fmt.Sprintf("nothing sticks out at %d pixels, and the steps have room: %s", width, hash), `document.documentElement.scrollWidth <= innerWidth && (document.getElementById("steps").hidden || document.getElementById("steps").clientHeight >= 78)`)
		}
	}
}
