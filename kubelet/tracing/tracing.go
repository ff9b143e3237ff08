// Package tracing hands on the program's spans: to an OpenTelemetry collector where the configuration has
// tracing, and to the timeline. There is one for each sync of a pod, for its steps and their calls to the runtime, and, for
// a collector alone, for requests to the apiserver and to the kubelet's server.
package tracing

import (
	"context"
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"k8s.io/client-go/rest"
	componenttracing "k8s.io/component-base/tracing"
	tracingapi "k8s.io/component-base/tracing/api/v1"
	"k8s.io/utils/ptr"

	"minikubelet/kubelet/tracing/otlp"
)

// Tracing is where spans go. All methods of a nil Tracing do nothing.
type Tracing struct {
	provider *sdktrace.TracerProvider
	exports  bool // to a collector
}

// New returns nil where nothing is configured and no watcher wants the spans (nil for none). It does not connect: a
// collector may be started later.
func New(ctx context.Context, config *tracingapi.TracingConfiguration, node string, watcher sdktrace.SpanProcessor) (*Tracing, error) {
	if config == nil && watcher == nil {
		return nil, nil
	}
	var to *otlp.Collector
	if config != nil {
		to = &otlp.Collector{Endpoint: ptr.Deref(config.Endpoint, ""), PerMillion: ptr.Deref(config.SamplingRatePerMillion, 0)}
	}
	provider, err := otlp.Use(ctx, "kubelet", node, to, watcher)
	if err != nil {
		return nil, err
	}
	return &Tracing{provider, config != nil}, nil
}

// Calls are options for a gRPC connection: each call on it has a span and carries its context.
func (t *Tracing) Calls() []grpc.DialOption {
	if t == nil {
		return nil
	}
	return []grpc.DialOption{grpc.WithStatsHandler(otelgrpc.NewClientHandler(
		otelgrpc.WithTracerProvider(t.provider), otelgrpc.WithPropagators(componenttracing.Propagators()),
	))}
}

// Requests lets each request of a client have a span and carry its context.
func (t *Tracing) Requests(client *rest.Config) {
	if t != nil && t.exports {
		client.Wrap(componenttracing.WrapperFor(t.provider))
	}
}

// Handler returns a handler whose requests have spans. These are roots: what a client says of its own is only linked to.
func (t *Tracing) Handler(next http.Handler) http.Handler {
	if t == nil || !t.exports {
		return next
	}
	return otelhttp.NewHandler(next, "kubelet",
		otelhttp.WithTracerProvider(t.provider), otelhttp.WithPropagators(componenttracing.Propagators()),
		otelhttp.WithPublicEndpointFn(func(*http.Request) bool { return true }),
	)
}

// Stop sends what was not sent yet.
func (t *Tracing) Stop() {
	if t != nil {
		otlp.Stop(t.provider)
	}
}
