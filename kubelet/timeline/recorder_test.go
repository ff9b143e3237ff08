package timeline

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"
)

// newTracer returns a tracer whose spans the recorder gets.
func newTracer(r *Recorder) trace.Tracer {
	return sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r)).Tracer(tracer)
}

// begin starts a step of a pod.
func begin(ctx context.Context, t trace.Tracer, name, pod string, more ...attribute.KeyValue) (context.Context, trace.Span) {
	return t.Start(ctx, name, trace.WithAttributes(append(more, attribute.String("k8s.pod.uid", pod), attribute.String("k8s.pod", "default/"+pod))...))
}

func names(steps []Step) string {
	var all []string
	for _, s := range steps {
		name := s.Name
		if s.Running() {
			name += "…"
		}
		all = append(all, name)
	}
	return strings.Join(all, " ")
}

// TestSteps: a step is there when it begins, with its pod and what it is part of, and changes when it ends.
func TestSteps(t *testing.T) {
	r := NewRecorder()
	tr := newTracer(r)
	bell := r.Bell()
	ctx, sync := begin(t.Context(), tr, "syncPod", "u1", attribute.String("step.why", "the pod is new"), attribute.String("code.function.name", "f"), attribute.Int("code.line.number", 7))
	<-bell
	_, call := tr.Start(ctx, "inner")
	if got := names(r.Steps("u1")); got != "syncPod… inner…" {
		t.Errorf("while they go on: %s", got)
	}
	_, before := r.Since(0, 10)
	call.AddEvent("pulled 3 of 9 MB")
	changed, _ := r.Since(before, 10)
	if len(changed) != 1 || len(changed[0].Notes) != 1 || changed[0].Notes[0].Text != "pulled 3 of 9 MB" {
		t.Errorf("after a note: %+v", changed)
	}
	call.SetStatus(codes.Error, "no such image")
	call.RecordError(errors.New("no such image"))
	call.End()
	sync.End()
	_, other := tr.Start(t.Context(), "collect")
	other.End()
	steps := r.Steps("u1")
	if names(steps) != "syncPod inner" {
		t.Fatalf("ended: %s", names(steps))
	}
	if s := steps[0]; s.Why != "the pod is new" || s.Function != "f" || s.Line != 7 || s.PodName != "default/u1" || s.End.Before(s.Start) {
		t.Errorf("%+v", s)
	}
	if s := steps[1]; s.Parent != steps[0].ID || s.Pod != "u1" || s.PodName != "default/u1" || s.Error != "no such image" || len(s.Notes) != 1 {
		t.Errorf("%+v", s)
	}
	if got := names(r.Steps("")); got != "collect" {
		t.Errorf("of the node: %s", got)
	}
	if pods := r.Pods(); len(pods) != 1 || pods["u1"] != "default/u1" {
		t.Errorf("pods: %v", pods)
	}
	first, next := r.Since(0, 1)
	rest, last := r.Since(next, 10)
	if len(first) != 1 || len(rest) != 2 || names(append(first, rest...)) != "inner syncPod collect" {
		t.Errorf("since the beginning: %s, then %s", names(first), names(rest))
	}
	if none, same := r.Since(last, 10); len(none) != 0 || same != last {
		t.Errorf("since the end: %s", names(none))
	}
}

// TestManyNotes: each of a step's notes is told of, however many came before.
func TestManyNotes(t *testing.T) {
	r := NewRecorder()
	_, pull := begin(t.Context(), newTracer(r), "pullImage", "u1")
	defer pull.End()
	for i := range 300 {
		_, before := r.Since(0, 10)
		pull.AddEvent(fmt.Sprint(i, " of 300 MB"))
		changed, _ := r.Since(before, 10)
		if len(changed) != 1 || changed[0].Notes[len(changed[0].Notes)-1].Text != fmt.Sprint(i, " of 300 MB") {
			t.Fatalf("after note %d: %+v", i, changed)
		}
	}
}

// TestCalls: a call is a step of its pod on both sides of the socket.
func TestCalls(t *testing.T) {
	r := NewRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r))
	ctx, create := begin(t.Context(), provider.Tracer(tracer), "createPodSandbox", "u1")
	rpc := provider.Tracer("rpc")
	client, call := rpc.Start(ctx, "runtime.v1.RuntimeService/RunPodSandbox", trace.WithSpanKind(trace.SpanKindClient))
	remote := trace.ContextWithRemoteSpanContext(context.Background(), trace.SpanContextFromContext(client))
	server, served := rpc.Start(remote, "runtime.v1.RuntimeService/RunPodSandbox", trace.WithSpanKind(trace.SpanKindServer))
	_, numbered := provider.Tracer(tracer).Start(server, "1. Reserve the name")
	numbered.End()
	served.End()
	call.SetStatus(codes.Error, "refused")
	call.End()
	create.End()
	steps := r.Steps("u1")
	if len(steps) != 4 || steps[1].Runtime || !steps[2].Runtime || !steps[3].Runtime || steps[1].Method != "RunPodSandbox" || steps[3].Method != "" {
		t.Errorf("%+v", steps)
	}
}

// TestBounds: whatever comes, a recorder keeps a bounded amount.
func TestBounds(t *testing.T) {
	r := NewRecorder()
	tr := newTracer(r)
	long := strings.Repeat("é", maxText)
	for n := range maxPods + 50 {
		for i := range maxSteps + 10 {
			_, s := begin(t.Context(), tr, fmt.Sprint("step ", i), fmt.Sprint("u", n))
			if n < 3 {
				s.SetAttributes(attribute.String("step.after", long), attribute.String("other", long))
				s.AddEvent(long)
			}
			s.End()
			if n >= 3 && i > 3 && n < maxPods+40 {
				break
			}
		}
		if n < 3 {
			if h := r.pods[types.UID(fmt.Sprint("u", n))]; h.bytes > maxBytes || len(h.steps) < 2 {
				t.Errorf("%d steps with %d bytes", len(h.steps), h.bytes)
			}
		}
	}
	if got := len(r.Pods()); got != maxPods {
		t.Errorf("%d pods are kept", got)
	}
	last := r.Steps(fmt.Sprint("u", maxPods+49))
	if len(last) > maxSteps || last[len(last)-1].Name != fmt.Sprint("step ", maxSteps+9) {
		t.Errorf("%d steps are kept", len(last))
	}
	for uid, h := range r.pods {
		sum := 0
		for _, s := range h.steps {
			sum += s.size()
		}
		if sum != h.bytes {
			t.Errorf("%s: %d bytes are counted, %d are there", uid, h.bytes, sum)
		}
	}
	for range maxOpen + 10 {
		_, _ = tr.Start(t.Context(), "never ends")
	}
	if len(r.open) != maxOpen {
		t.Errorf("%d steps are open", len(r.open))
	}
}

// TestMemory: the steps of 100 pods, as many as are kept, take less than 8 MiB.
func TestMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := NewRecorder()
	fill(t.Context(), newTracer(r), 100, maxSteps)
	runtime.GC()
	runtime.ReadMemStats(&after)
	got := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d KiB", got>>10)
	if got > 8<<20 {
		t.Errorf("100 pods take %d KiB", got>>10)
	}
	runtime.KeepAlive(r)
}

// fill records steps as a pod's start has them.
func fill(ctx context.Context, tr trace.Tracer, pods, steps int) {
	for n := range pods {
		pod := fmt.Sprint("u", n)
		for i := range steps / 4 {
			ctx, s := begin(ctx, tr, "startContainer", pod, attribute.String("step.why", fmt.Sprintf("container c%d is new", i)),
				attribute.String("code.function.name", "minikubelet/runtime.(*Runtime).startContainer"), attribute.String("code.file.path", "minikubelet/runtime/container.go"), attribute.Int("code.line.number", 52))
			for range 3 {
				_, inner := tr.Start(ctx, "runtime.v1.RuntimeService/CreateContainer")
				inner.End()
			}
			s.End()
		}
	}
}

// BenchmarkPodStart is what the steps of one pod's start cost, about 60.
func BenchmarkPodStart(b *testing.B) {
	r := NewRecorder()
	tr := newTracer(r)
	b.ReportAllocs()
	for b.Loop() {
		fill(b.Context(), tr, 1, 60)
	}
}
