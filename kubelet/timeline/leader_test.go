package timeline

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/kubelet/timeline/story"
)

// TestStandsStill: what is paused stands still, though steps go on and the state changes.
func TestStandsStill(t *testing.T) {
	n, _ := threePods(t)
	_, open := begin(t.Context(), n.provider.Tracer(tracer), "pullImage", "web")
	defer open.End()
	ctx := n.browser(t)
	js(ctx, t, `location.hash = "#pod=web&open=1"`)
	until(ctx, t, "a step goes on", rows+`.length === 1`)
	press(ctx, t, "p")
	until(ctx, t, "paused", `document.body.classList.contains("paused")`)
	js(ctx, t, `new Promise((done) => setTimeout(done, 300))`) // a draw that was due
	const drawn = `document.getElementById("rows").innerText`
	before := evaluate[string](ctx, t, drawn)
	js(ctx, t, `globalThis.draws = 0; new MutationObserver(() => draws++).observe(document.getElementById("rows"), { childList: true })`)
	n.set(func() { n.pods[0].State = "Ready" })
	until(ctx, t, "it is drawn anew", `draws > 0`)
	if now := evaluate[string](ctx, t, drawn); now != before {
		t.Errorf("paused at\n%s\nit shows\n%s", before, now)
	}
}

// TestReleaseOnPage: the key r releases one step after the other, however fast it comes, and values stay what they are, also empty ones.
func TestReleaseOnPage(t *testing.T) {
	steps, err := ParseStep("CreateContainer")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, steps, nil)
	n.pods = []story.Summary{newPod("web", "Pending")}
	ctx := n.browser(t)
	sent := make(chan *runtimeapi.CreateContainerRequest, 3)
	for range 3 {
		go func() { sent <- n.create(t, steps, "-c", "", "a\nb") }()
	}
	until(ctx, t, "all are held", `document.querySelectorAll("#held form").length === 3`)
	do(ctx, t, chromedp.SetValue(`#held form:nth-of-type(3) [name=args]`, evaluate[string](ctx, t, `document.querySelector("#held form:nth-of-type(3) [name=args]").value`)+"\nmore"))
	js(ctx, t, `globalThis.refused = []; new MutationObserver(() => refused.push(document.querySelector("#held .bad:not(:empty)")?.textContent)).observe(document.getElementById("held"), { subtree: true, childList: true, characterData: true })`)
	press(ctx, t, "rrr")
	times := map[string]int{}
	for range 3 {
		select {
		case one := <-sent:
			times[fmt.Sprintf("%q", one.GetConfig().GetArgs())]++
		case <-time.After(20 * time.Second):
			t.Fatalf("released were %v", times)
		}
	}
	if times[`["-c" "" "a\nb"]`] != 2 || times[`["-c" "" "a\nb" "more"]`] != 1 {
		t.Errorf("sent were %v", times)
	}
	until(ctx, t, "nothing is held", `document.getElementById("held").hidden`)
	if refused := evaluate[[]string](ctx, t, `refused.filter(Boolean)`); len(refused) > 0 {
		t.Errorf("refused: %q", refused)
	}
}

// TestManyTabs: the page that is looked at is live however many are open, though a browser has six connections to one address.
func TestManyTabs(t *testing.T) {
	n, _ := threePods(t)
	ctx := n.browser(t)
	for i := range 8 {
		tab, cancel := chromedp.NewContext(ctx, chromedp.WithNewWindow(false))
		t.Cleanup(cancel)
		do(tab, t) // which opens it: a tab that is opened with a limit ends with that
		limited, cancelLimit := context.WithTimeout(tab, 30*time.Second)
		t.Cleanup(cancelLimit)
		do(limited, t, chromedp.Navigate(n.Link()))
		until(tab, t, fmt.Sprintf("tab %d is live", i), `document.getElementById("live").textContent === "live" && timeline.store.state !== null`)
	}
	n.start(t.Context(), n.pods[0], time.Now(), "")
	if seen := evaluate[string](ctx, t, `document.visibilityState`); seen != "hidden" {
		t.Fatalf("the first page is %s", seen)
	}
	if _, err := chromedp.Call(ctx, page.BringToFront, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	until(ctx, t, "the first page has what came meanwhile", `document.getElementById("count").textContent === "56 steps"`)
}
