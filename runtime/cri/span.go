package cri

import (
	"context"
	"path"
	"runtime"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// Step opens a trace span for something that is done, for a pod or for all (nil); end closes it. Calls to the runtime with the
// context that it returns belong to the span. Where nothing records spans, this does nothing. The span names the function that
// calls Step as the one that does it.
func Step(ctx context.Context, name string, pod *corev1.Pod, more ...attribute.KeyValue) (_ context.Context, end func(error)) {
	ctx, span := otel.Tracer("minikubelet").Start(ctx, name, trace.WithAttributes(append(more, about(pod)...)...))
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

// about says where the caller's caller is in the source, and which pod it acts on.
func about(pod *corev1.Pod) []attribute.KeyValue {
	all := make([]attribute.KeyValue, 0, 7)
	if pc, file, line, ok := runtime.Caller(2); ok {
		name := runtime.FuncForPC(pc).Name()
		dir := path.Dir(name)
		pkg, _, _ := strings.Cut(path.Base(name), ".")
		all = append(all, attribute.String("code.function.name", name), attribute.String("code.file.path", path.Join(dir, pkg, path.Base(file))), attribute.Int("code.line.number", line))
	}
	if pod != nil {
		all = append(all,
			attribute.String("k8s.pod.uid", string(pod.UID)), attribute.String("k8s.pod", pod.Namespace+"/"+pod.Name),
			attribute.String("k8s.pod.name", pod.Name), attribute.String("k8s.namespace.name", pod.Namespace),
		)
	}
	return all
}

// Why is the reason for a step.
func Why(reason string) attribute.KeyValue { return attribute.String("step.why", reason) }

// Because gives the reason for the step of the context once it is known.
func Because(ctx context.Context, reason string) {
	trace.SpanFromContext(ctx).SetAttributes(Why(reason))
}

// Changed says what the step of the context changed, as YAML; before is nil for something new.
func Changed(ctx context.Context, before, after any) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	for key, object := range map[string]any{"step.before": before, "step.after": after} {
		if object == nil {
			continue
		}
		if text, err := yaml.Marshal(object); err == nil {
			span.SetAttributes(attribute.String(key, string(text)))
		}
	}
}

// OfContainer names the container that the step of the context is about.
func OfContainer(ctx context.Context, name string) {
	trace.SpanFromContext(ctx).SetAttributes(attribute.String("k8s.container.name", name))
}
