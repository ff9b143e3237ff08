// Package tracing sends spans to an OpenTelemetry collector where the configuration has tracing: one for each sync of a
// pod, for its steps and their calls to the runtime, for requests to the apiserver and to the kubelet's server.
package tracing

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	"google.golang.org/grpc"
	"k8s.io/client-go/rest"
	componenttracing "k8s.io/component-base/tracing"
	tracingapi "k8s.io/component-base/tracing/api/v1"
	"k8s.io/klog/v2"
)

// stopTimeout is how long the last spans may take to be sent.
const stopTimeout = 3 * time.Second

// Tracing is where spans go. All methods of a nil Tracing do nothing.
type Tracing struct {
	provider componenttracing.TracerProvider
}

// New returns nil where nothing is configured. It does not connect: a collector may be started later. What of the
// program asks OpenTelemetry for a tracer gets this one.
//
// Upstream: cmd/kubelet/app/server.go newTracerProvider.
func New(ctx context.Context, config *tracingapi.TracingConfiguration, node string) (*Tracing, error) {
	if config == nil {
		return nil, nil
	}
	attributes := resource.WithAttributes(attribute.String("service.name", "kubelet"), attribute.String("host.name", node))
	provider, err := componenttracing.NewProvider(ctx, config, nil, []resource.Option{attributes})
	if err != nil {
		return nil, fmt.Errorf("prepare tracing: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { klog.FromContext(ctx).Error(err, "Spans could not be sent") }))
	otel.SetTracerProvider(provider)
	return &Tracing{provider}, nil
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
	if t != nil {
		client.Wrap(componenttracing.WrapperFor(t.provider))
	}
}

// Handler returns a handler whose requests have spans. These are roots: what a client says of its own is only linked to.
//
// Upstream: pkg/kubelet/server/server.go InstallTracingFilter.
func (t *Tracing) Handler(next http.Handler) http.Handler {
	if t == nil {
		return next
	}
	return otelhttp.NewHandler(next, "kubelet",
		otelhttp.WithTracerProvider(t.provider), otelhttp.WithPropagators(componenttracing.Propagators()),
		otelhttp.WithPublicEndpointFn(func(*http.Request) bool { return true }),
	)
}

// Stop sends what was not sent yet. A collector that cannot be reached does not keep the kubelet from ending.
func (t *Tracing) Stop() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		klog.Background().Error(err, "The last spans could not be sent")
	}
}
