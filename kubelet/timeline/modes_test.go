package timeline

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// script is an argument as a block of YAML is: with lines, and a line's end at its end.
const script = "serve \\n\n\nall\n"

// create calls CreateContainer for default/web as the kubelet does, and returns what was sent.
func (n *node) create(t *testing.T, steps *StepMode, args ...string) (sent *runtimeapi.CreateContainerRequest) {
	if args == nil {
		args = []string{script}
	}
	ctx, span := begin(t.Context(), n.provider.Tracer(tracer), "startContainer", "web", attribute.String("k8s.container.name", "main"))
	defer span.End()
	request := &runtimeapi.CreateContainerRequest{Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Args: args, Envs: []*runtimeapi.KeyValue{{Key: "COLOR", Value: []byte("red")}},
	}}
	err := steps.Unary(ctx, "/runtime.v1.RuntimeService/CreateContainer", request, nil, nil, func(_ context.Context, _ string, got, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		sent = got.(*runtimeapi.CreateContainerRequest)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if string(request.Config.Envs[0].Value) != "red" {
		t.Error("the kubelet's own request was changed")
	}
	return sent
}

// TestModeFlags: --step and --chaos say what is wrong with them.
func TestModeFlags(t *testing.T) {
	for text, want := range map[string]string{
		"RunPodSandbox": "", "syncPod@web, CreateContainer@default/web": "", "": "",
		"runpodsandbox": "neither a CRI method", "@web": "want STEP", "RunPodSandbox@": "want STEP", "RunPodSandbox@a/b/c": "want STEP", ",": "want STEP", "GetContainerEvents": "neither a CRI method",
	} {
		s, err := ParseStep(text)
		switch {
		case want != "" && (err == nil || !strings.HasPrefix(err.Error(), "--step: ") || !strings.Contains(err.Error(), want)):
			t.Errorf("--step=%s: %v, want one with %q", text, err, want)
		case want == "" && (err != nil || (s == nil) != (text == "")):
			t.Errorf("--step=%s: %v, %v", text, s, err)
		case want == "" && s != nil && s.text != strings.ReplaceAll(text, " ", ""):
			t.Errorf("--step=%s is %s", text, s.text)
		}
	}
	for text, want := range map[string]string{
		"RunPodSandbox=error:0.3": "", "*=hang:0.01,PullImage=delay(2s):1": "", "": "",
		"RunPodSandbox=error": "want METHOD", "RunPodSandbox=error:0": "the probability", "RunPodSandbox=error:1.1": "the probability", "RunPodSandbox=error:NaN": "the probability", "Run=error:1": "no CRI method",
		"RunPodSandbox=delay:1": "want METHOD", "RunPodSandbox=delay(2):1": "the delay", "RunPodSandbox=delay(2s:1": "want METHOD", "RunPodSandbox=delay(-2s):1": "the delay", "RunPodSandbox=crash:1": "want METHOD", "RunPodSandbox=error():1": "want METHOD", "RunPodSandbox=hang():1": "want METHOD", "RunPodSandbox=error(1s):1": "want METHOD", "RunPodSandbox:0.3": "want METHOD", "*=hang(1s):1": "want METHOD", ",": "want METHOD",
	} {
		c, err := ParseChaos(text)
		if want != "" && (err == nil || !strings.HasPrefix(err.Error(), "--chaos: ") || !strings.Contains(err.Error(), want)) || want == "" && (err != nil || (c == nil) != (text == "")) {
			t.Errorf("--chaos=%s: %v, want one with %q", text, err, want)
		}
	}
}

// TestChaos: calls fail, wait and hang as often as was said.
func TestChaos(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		call := func(c *Chaos, method string) (done bool, took time.Duration, err error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			start := time.Now()
			err = c.Unary(ctx, "/runtime.v1.RuntimeService/"+method, nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
				done = true
				return nil
			})
			return done, time.Since(start), err
		}
		c, err := ParseChaos("RunPodSandbox=error:0.3,PullImage=delay(2s):1,Status=hang:0.5")
		if err != nil {
			t.Fatal(err)
		}
		c.random = func() float64 { return 0.3 }
		if done, _, err := call(c, "RunPodSandbox"); !done || err != nil {
			t.Errorf("at 0.3: %v", err)
		}
		c.random = func() float64 { return 0.29 }
		if done, _, err := call(c, "RunPodSandbox"); done || status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "chaos") {
			t.Errorf("below 0.3: %v", err)
		}
		if done, took, err := call(c, "PullImage"); !done || took != 2*time.Second || err != nil {
			t.Errorf("delayed: %v, %v", took, err)
		}
		if done, took, err := call(c, "Status"); done || took != time.Minute || status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("hangs: %v, %v", took, err)
		}
		if done, took, err := call(c, "StopContainer"); !done || took != 0 || err != nil {
			t.Errorf("another method: %v, %v", took, err)
		}
	})
}

// TestStepOfPods: a pod is named with or without its namespace, a static one with or without the node.
func TestStepOfPods(t *testing.T) {
	for rule, want := range map[string]string{
		"": "a/web-node a/web b/web-node", "@web": "a/web-node a/web b/web-node", "@web-node": "a/web-node b/web-node", "@a/web": "a/web-node a/web",
		"@b/web-node": "b/web-node", "@other": "", "@node": "",
	} {
		s, err := ParseStep("syncPod" + rule)
		if err != nil {
			t.Fatal(err)
		}
		s.Use(t.Context(), NewRecorder(), "node")
		var got []string
		for _, pod := range []string{"a/web-node", "a/web", "b/web-node"} {
			if s.wants("syncPod", pod) {
				got = append(got, pod)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %v, want %s", rule, got, want)
		}
	}
}

// TestStepMode: chosen steps of chosen pods wait, in the goroutine that does them, until they are released or given up.
func TestStepMode(t *testing.T) {
	steps, err := ParseStep("syncPod@web,CreateContainer")
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecorder()
	steps.Use(t.Context(), r, "node")
	tr := newTracer(r)
	done := make(chan string)
	sync := func(ctx context.Context, pod string) {
		_, span := begin(ctx, tr, "syncPod", pod)
		span.End()
		done <- pod
	}
	held := func(want int) []Held {
		for ; ; time.Sleep(time.Millisecond) {
			if h := steps.Held(); len(h) == want {
				return h
			}
		}
	}
	go sync(t.Context(), "other")
	<-done
	go sync(t.Context(), "web")
	if h := held(1)[0]; h.Name != "syncPod" || h.PodName != "default/web" || h.Edit != nil {
		t.Errorf("held: %+v", h)
	}
	if err := steps.Release(1, &Edit{}); err == nil || !strings.Contains(err.Error(), "nothing of it can be changed") {
		t.Errorf("changed: %v", err)
	}
	in, out := io.Pipe()
	go steps.Terminal(in, io.Discard)
	_, _ = io.WriteString(out, "what\n77\n\n")
	<-done
	held(0)
	ctx, cancel := context.WithCancel(t.Context())
	go sync(ctx, "web")
	held(1)
	cancel()
	<-done
	held(0)
	pull := &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "a"}, Auth: &runtimeapi.AuthConfig{Password: "secret"}}
	if text := show(pull); strings.Contains(text, "secret") || !strings.Contains(text, `"a"`) {
		t.Errorf("shown: %s", text)
	}
	_ = out.Close()
}
