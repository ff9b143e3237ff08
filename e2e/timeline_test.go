package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	corev1 "k8s.io/api/core/v1"

	"minikubelet/e2e/stack"
	"minikubelet/kubelet/timeline"
)

// timelineLink waits for the link of the kubelet's page.
func timelineLink(ctx context.Context, t *testing.T, s *stack.Stack) *url.URL {
	t.Helper()
	var link *url.URL
	eventually(ctx, t, "the timeline has a link", func() bool {
		text, err := os.ReadFile(filepath.Join(s.RootDir(), "timeline-link"))
		if err == nil {
			link, err = url.Parse(strings.TrimSpace(string(text)))
		}
		return err == nil
	})
	return link
}

// askTimeline sends a request with the link's token; body is nil for a GET.
func askTimeline(ctx context.Context, t *testing.T, s *stack.Stack, link *url.URL, path string, body any) []byte {
	t.Helper()
	method, sent := http.MethodGet, []byte(nil)
	if body != nil {
		method = http.MethodPost
		sent, _ = json.Marshal(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+link.Host+path, bytes.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+link.Query().Get("token"))
	response, err := s.HTTP.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= 300 {
		t.Fatalf("%s: %s, %v: %s", path, response.Status, err, answer)
	}
	return answer
}

// timelineStep is a step as the page has it.
type timelineStep struct {
	ID, Parent, Name, Method, Function, Why, End, Before, After string
	Runtime                                                     bool
	Notes                                                       []struct{ Text string }
}

func podSteps(ctx context.Context, t *testing.T, s *stack.Stack, link *url.URL, pod corev1.Pod) []timelineStep {
	t.Helper()
	var steps []timelineStep
	if err := json.Unmarshal(askTimeline(ctx, t, s, link, "/steps.json?pod="+string(pod.UID), nil), &steps); err != nil {
		t.Fatal(err)
	}
	return steps
}

// TestTimeline: a pod's steps on both sides of the CRI socket can be seen, each with its reason and its place in the source, and a
// held step waits until it is released, with what was changed of its request.
func TestTimeline(t *testing.T) {
	ctx, s := embeddedStack(t)
	write(t, filepath.Join(s.ManifestDir(), "pod.yaml"), fmt.Sprintf(manifest, "pod", "red"))
	k := embeddedKubelet(t, s, "--timeline", "--step=CreateContainer@default/pod-"+s.NodeName)
	link := timelineLink(ctx, t, s)
	eventually(ctx, t, "a step is held", func() bool { return strings.Contains(k.Log(), "STEP MODE: a step is held") })
	pod := standalone(ctx, t, s, "the pod is there", func(corev1.Pod) bool { return true })
	if steps := podSteps(ctx, t, s, link, pod); slices.ContainsFunc(steps, func(step timelineStep) bool { return step.Method == "CreateContainer" }) {
		t.Error("the held call was sent")
	}
	page := openTimeline(ctx, t, s, link)
	see := func(what, condition string) {
		t.Helper()
		if _, err := chromedp.Run(page, chromedp.Poll[chromedp.Void](condition, chromedp.WithPollingTimeout(20*time.Second))); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	see("the page shows what is held, and that it is", `document.querySelector("#held form")?.textContent.includes("COLOUR") || document.querySelector("#held [name=env]")?.value.includes("COLOUR=red")`)
	see("the page says so", `document.getElementById("modes").textContent.includes("--step=CreateContainer")`)
	askTimeline(ctx, t, s, link, "/release", map[string]any{"id": 1, "edit": timeline.Edit{Env: []string{"COLOUR=blue"}}})
	pod = standalone(ctx, t, s, "the pod is ready", isReady)
	eventually(ctx, t, "the container has what was changed", func() bool {
		env, err := s.Get(ctx, "http://"+pod.Status.PodIP+":8080/env")
		return err == nil && strings.Contains(env, "COLOUR=blue")
	})

	var steps []timelineStep
	var missing []string
	eventually(ctx, t, "all steps are recorded", func() bool {
		steps, missing = podSteps(ctx, t, s, link, pod), nil
		for _, want := range []string{"update", "merge", "admission", "wakeUp", "syncPod", "mountVolumes", "createPodSandbox", "RunPodSandbox 4", "startContainer", "CreateContainer 6", "runtimeEvent"} {
			if !slices.ContainsFunc(steps, func(step timelineStep) bool { return step.Name == want && step.End != "" && step.Function != "" }) {
				missing = append(missing, want)
			}
		}
		return len(missing) == 0
	})
	byID := map[string]timelineStep{}
	for _, step := range steps {
		byID[step.ID] = step
	}
	for name, why := range map[string]string{"update": "ADD from file", "syncPod": "an update of the pod", "createPodSandbox": "no pod sandbox exists"} {
		i := slices.IndexFunc(steps, func(step timelineStep) bool { return step.Name == name })
		if steps[i].Why != why {
			t.Errorf("%s is done since %q, want %q", name, steps[i].Why, why)
		}
	}
	var path []string
	i := slices.IndexFunc(steps, func(step timelineStep) bool { return step.Name == "RunPodSandbox 4" })
	for step, ok := steps[i], true; ok; step, ok = byID[step.Parent] {
		path = append(path, step.Name)
	}
	if got := strings.Join(path, " < "); got != "RunPodSandbox 4 < runtime.v1.RuntimeService/RunPodSandbox < runtime.v1.RuntimeService/RunPodSandbox < createPodSandbox < syncPod" {
		t.Errorf("a step of the runtime is part of %s", got)
	}

	pulled := slices.IndexFunc(steps, func(step timelineStep) bool { return step.Method == "PullImage" && step.Runtime })
	if pulled < 0 || len(steps[pulled].Notes) == 0 {
		t.Error("the pull has told nothing of its progress")
	}
	for _, step := range steps {
		var detail struct {
			Code struct{ Text, Upstream string }
		}
		if err := json.Unmarshal(askTimeline(ctx, t, s, link, "/step?pod="+string(pod.UID)+"&id="+step.ID, nil), &detail); err != nil {
			t.Fatal(err)
		}
		if detail.Code.Text == "" || detail.Code.Upstream == "" {
			t.Errorf("%s (%s): the page has %d bytes of source, upstream is %q", step.Name, step.Function, len(detail.Code.Text), detail.Code.Upstream)
		}
	}

	see("nothing is held", `document.getElementById("held").hidden`)
	show := func(hash string) {
		t.Helper()
		if err := chromedp.Do(page, chromedp.Evaluate[chromedp.Void](`location.hash = "`+hash+`"`)); err != nil {
			t.Fatal(err)
		}
	}
	show(fmt.Sprintf("#pod=%s&step=%s", pod.UID, steps[i].ID))
	see("the step of the runtime with its source", `(() => { const text = document.getElementById("detail").textContent; return text.includes("Connect the network") && text.includes("func (s *Server) runPodSandbox(") })()`)
	sandbox := steps[slices.IndexFunc(steps, func(step timelineStep) bool { return step.Name == "createPodSandbox" })]
	show(fmt.Sprintf("#pod=%s&step=%s", pod.UID, sandbox.ID))
	see("a step of the kubelet with upstream's function", `document.getElementById("detail").textContent.includes("kuberuntime_sandbox.go")`)
	if dir := os.Getenv("TIMELINE_SHOTS"); dir != "" {
		picture, err := chromedp.Run(page, chromedp.CaptureScreenshot())
		if err != nil || os.WriteFile(filepath.Join(dir, "node.png"), picture, 0o600) != nil {
			t.Error("no picture", err)
		}
	}
	if err := k.Stop(20 * time.Second); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(s.RootDir(), "timeline-link")); !os.IsNotExist(err) {
		t.Errorf("the link of a kubelet that has ended: %v", err)
	}
}

// openTimeline opens the page in Chromium, which is outside the stack's network namespace.
func openTimeline(ctx context.Context, t *testing.T, s *stack.Stack, link *url.URL) context.Context {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil { // as on Ubuntu, which has no such package
		program, err = exec.LookPath("google-chrome")
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var copies sync.WaitGroup
	copies.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := s.DialContext(ctx, "tcp", link.Host)
			if err != nil {
				from.Close()
				continue
			}
			copies.Go(func() { _, _ = io.Copy(to, from); to.Close() })
			copies.Go(func() { _, _ = io.Copy(from, to); from.Close() })
		}
	})
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.WindowSize(1400, 900))
	browser, cancel := chromedp.NewExecAllocator(ctx, options...)
	tab, cancelTab := chromedp.NewContext(browser)
	t.Cleanup(func() { cancelTab(); cancel(); l.Close(); copies.Wait() })
	outside := *link
	outside.Host = l.Addr().String()
	if err := chromedp.Do(tab, chromedp.Navigate(outside.String())); err != nil {
		t.Fatal(err)
	}
	return tab
}

// TestChaos: calls fail as was asked for, the log says so, and the pod says why it waits.
func TestChaos(t *testing.T) {
	ctx, s := embeddedStack(t)
	write(t, filepath.Join(s.ManifestDir(), "pod.yaml"), fmt.Sprintf(manifest, "pod", "red"))
	k := embeddedKubelet(t, s, "--chaos=RunPodSandbox=delay(100ms):1,StartContainer=error:1")
	standalone(ctx, t, s, "the container cannot be started", func(pod corev1.Pod) bool {
		for _, c := range pod.Status.ContainerStatuses {
			for _, state := range []corev1.ContainerState{c.State, c.LastTerminationState} {
				if w := state.Waiting; w != nil && strings.Contains(w.Message, "chaos: StartContainer was made to fail") {
					return true
				}
			}
		}
		return false
	})
	for _, want := range []string{"CHAOS: calls to the container runtime are made to fail", `method="RunPodSandbox" how="delay" delay="100ms"`} {
		if !strings.Contains(k.Log(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	for args, want := range map[string]string{
		"--chaos=RunPodSandbox=crash:1": "--chaos: ", "--timeline=10.0.0.1:80": "--timeline: ", "--step=RunPodSandbox": "--step: needs --timeline", "--timeline --step=runPodSandbox": "--step: ",
	} {
		bad := embeddedKubelet(t, s, strings.Fields(args)...)
		if err := bad.Wait(ctx); err == nil || !strings.Contains(bad.LogTail(5), want) {
			t.Errorf("%s: %v\n%s", args, err, bad.LogTail(5))
		}
	}
	if err := k.Stop(20 * time.Second); err != nil {
		t.Error(err)
	}
}

// TestTimelineLines: all of the timeline has at most 4,000 lines, as the command in its documentation counts them.
func TestTimelineLines(t *testing.T) {
	const most = 4000
	_, command, _ := strings.Cut(read(t, "../docs/timeline.md"), "\n    find ")
	command, _, _ = strings.Cut(command, "\n")
	count := exec.CommandContext(t.Context(), "bash", "-c", "find "+command)
	count.Dir = ".."
	out, err := count.Output()
	if lines, wrong := strconv.Atoi(strings.TrimSpace(string(out))); err != nil || wrong != nil || lines > most || lines < most/2 {
		t.Errorf("%q lines, %v; want at most %d", out, errors.Join(err, wrong), most)
	}
}
