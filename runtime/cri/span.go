package cri

import (
	"bytes"
	"context"
	"encoding/json"
	"path"
	"runtime"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Step opens a trace span for something that is done, for a pod or for all (nil); end closes it. Calls to the runtime with the
// context that it returns belong to the span. Where nothing records spans, this does nothing. The span names the function that
// calls Step as the one that does it.
func Step(ctx context.Context, name string, pod *corev1.Pod, more ...attribute.KeyValue) (_ context.Context, end func(error)) {
	return begin(ctx, name, pod, time.Now(), more)
}

// Since is Step for something that began before it was known to be a step.
func Since(ctx context.Context, name string, pod *corev1.Pod, began time.Time, more ...attribute.KeyValue) (_ context.Context, end func(error)) {
	return begin(ctx, name, pod, began, more)
}

// Mark is a step that takes no time: something that happened to a pod, and why.
func Mark(ctx context.Context, name string, pod *corev1.Pod, why string) {
	_, end := begin(ctx, name, pod, time.Now(), []attribute.KeyValue{Why(why)})
	end(nil)
}

func begin(ctx context.Context, name string, pod *corev1.Pod, began time.Time, more []attribute.KeyValue) (_ context.Context, end func(error)) {
	ctx, span := otel.Tracer("minikubelet").Start(ctx, name, trace.WithTimestamp(began), trace.WithAttributes(about(pod, more)...))
	if !span.IsRecording() {
		return ctx, func(error) { span.End() }
	}
	return ctx, func(err error) {
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

// Pod is a pod of which only this is known.
func Pod(uid types.UID, namespace, name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Namespace: namespace, Name: name}}
}

// about says where in the source the caller of Step, Since or Mark is, which pod it acts on, and more.
func about(pod *corev1.Pod, more []attribute.KeyValue) []attribute.KeyValue {
	all := append(make([]attribute.KeyValue, 0, 7+len(more)), more...)
	if pc, file, line, ok := runtime.Caller(3); ok { // above about, begin, and the function that was called
		name := runtime.FuncForPC(pc).Name()
		dir := path.Dir(name)
		pkg, _, _ := strings.Cut(path.Base(name), ".")
		all = append(all, attribute.String("code.function.name", name), attribute.String("code.file.path", path.Join(dir, pkg, path.Base(file))), attribute.Int("code.line.number", line))
	}
	if pod != nil {
		all = append(all, attribute.String("k8s.pod.uid", string(pod.UID)))
	}
	if pod != nil && pod.Name != "" {
		all = append(all, attribute.String("k8s.pod", pod.Namespace+"/"+pod.Name), attribute.String("k8s.pod.name", pod.Name), attribute.String("k8s.namespace.name", pod.Namespace))
	}
	return all
}

// Why is the reason for a step.
func Why(reason string) attribute.KeyValue { return attribute.String("step.why", reason) }

// Because gives the reason for the step of the context once it is known.
func Because(ctx context.Context, reason string) {
	trace.SpanFromContext(ctx).SetAttributes(Why(reason))
}

// Changed says what the step of the context changed, as JSON: the lines that are not the same, and a few around them. before is
// nil for what the step made.
func Changed(ctx context.Context, before, after any) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	young, err := json.MarshalIndent(after, "", " ")
	old, oldErr := json.MarshalIndent(before, "", " ")
	if err != nil || oldErr != nil || bytes.Equal(old, young) {
		return
	}
	old = bytes.TrimPrefix(old, []byte("null"))
	was, is := differing(strings.Split(string(old), "\n"), strings.Split(string(young), "\n"))
	span.SetAttributes(attribute.String("step.before", was), attribute.String("step.after", is))
}

// differing leaves out the lines that two texts have in common at their beginnings and ends, but for three.
func differing(a, b []string) (string, string) {
	const around = 3
	from := 0
	for from < min(len(a), len(b)) && a[from] == b[from] {
		from++
	}
	end := 0
	for end < min(len(a), len(b))-from && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	from, end = max(from-around, 0), max(end-around, 0)
	return strings.Join(a[from:len(a)-end], "\n"), strings.Join(b[from:len(b)-end], "\n")
}

// OfContainer names the container that a step is about, and so its parts.
func OfContainer(name string) attribute.KeyValue {
	return attribute.String("k8s.container.name", name)
}
