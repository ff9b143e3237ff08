// Package tracing gives the program's spans to who wants them: to an OpenTelemetry collector where the configuration has
// tracing, and to the timeline. There is one for each sync of a pod, for its steps and their calls to the runtime, and, for
// a collector alone, for requests to the apiserver and to the kubelet's server.
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
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
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
	provider *sdktrace.TracerProvider
	exports  bool // to a collector
}

// New returns nil where nothing is configured and no watcher wants the spans (nil for none). It does not connect: a
// collector may be started later. What of the program asks OpenTelemetry for a tracer gets this one.
//
// Upstream: cmd/kubelet/app/server.go newTracerProvider.
func New(ctx context.Context, config *tracingapi.TracingConfiguration, node string, watcher sdktrace.SpanProcessor) (*Tracing, error) {
	if config == nil && watcher == nil {
		return nil, nil
	}
	attributes := resource.WithAttributes(attribute.String("service.name", "kubelet"), attribute.String("host.name", node))
	from, err := resource.New(ctx, attributes)
	if err != nil {
		return nil, fmt.Errorf("prepare tracing: %w", err)
	}
	options := []sdktrace.TracerProviderOption{sdktrace.WithResource(from)}
	sampler := sdktrace.NeverSample()
	if config != nil {
		exporter, err := newExporter(ctx, config)
		if err != nil {
			return nil, fmt.Errorf("prepare tracing: %w", err)
		}
		options = append(options, sdktrace.WithBatcher(exporter))
		if rate := config.SamplingRatePerMillion; rate != nil && *rate > 0 {
			sampler = sdktrace.TraceIDRatioBased(float64(*rate) / 1e6)
		}
	}
	sampler = sdktrace.ParentBased(sampler)
	if watcher != nil {
		options, sampler = append(options, sdktrace.WithSpanProcessor(watcher)), recordAll{sampler}
	}
	provider := sdktrace.NewTracerProvider(append(options, sdktrace.WithSampler(sampler))...)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { klog.FromContext(ctx).Error(err, "Spans could not be sent") }))
	otel.SetTracerProvider(provider)
	return &Tracing{provider, config != nil}, nil
}

func newExporter(ctx context.Context, config *tracingapi.TracingConfiguration) (*otlptrace.Exporter, error) {
	options := []otlptracegrpc.Option{otlptracegrpc.WithInsecure()}
	if config.Endpoint != nil {
		options = append(options, otlptracegrpc.WithEndpoint(*config.Endpoint))
	}
	return otlptracegrpc.New(ctx, options...)
}

// recordAll has spans recorded for the watcher that are not for the collector.
type recordAll struct{ sdktrace.Sampler }

func (s recordAll) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	result := s.Sampler.ShouldSample(p)
	if result.Decision == sdktrace.Drop {
		result.Decision = sdktrace.RecordOnly
	}
	return result
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
