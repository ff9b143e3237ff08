package cri

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
)

// Step opens a trace span for something that is done, for a pod or for all (nil); end closes it. Calls to the runtime with the
// context that it returns belong to the span. Without tracing in the configuration there is no span, and this does nothing.
func Step(ctx context.Context, name string, pod *corev1.Pod) (_ context.Context, end func(error)) {
	ctx, span := otel.Tracer("minikubelet").Start(ctx, name)
	if !span.IsRecording() {
		return ctx, func(error) { span.End() }
	}
	if pod != nil {
		span.SetAttributes(
			attribute.String("k8s.pod.uid", string(pod.UID)), attribute.String("k8s.pod", pod.Namespace+"/"+pod.Name),
			attribute.String("k8s.pod.name", pod.Name), attribute.String("k8s.namespace.name", pod.Namespace),
		)
	}
	return ctx, func(err error) {
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

// OfContainer names the container that the step of the context is about.
func OfContainer(ctx context.Context, name string) {
	trace.SpanFromContext(ctx).SetAttributes(attribute.String("k8s.container.name", name))
}
