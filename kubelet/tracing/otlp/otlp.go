// Package otlp sends a program's spans to an OpenTelemetry collector, for the kubelet and for the runtime beside it.
package otlp

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"k8s.io/klog/v2"
)

// stopTimeout is how long the last spans may take to be sent.
const stopTimeout = 3 * time.Second

// Collector is where spans go, and which do.
type Collector struct {
	Endpoint   string // HOST:PORT; "" for localhost:4317
	PerMillion int32  // so many of a million traces that begin in this program; those that its callers began are theirs to choose
}

// Use makes the program's tracer, which OpenTelemetry hands out from then on. Nothing is sent where to is nil, and watcher
// gets every span, nil for none. It does not connect: a collector may be started later.
//
// Upstream: cmd/kubelet/app/server.go newTracerProvider.
func Use(ctx context.Context, service, host string, to *Collector, watcher sdktrace.SpanProcessor) (*sdktrace.TracerProvider, error) {
	from, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", service), attribute.String("host.name", host)))
	if err != nil {
		return nil, fmt.Errorf("prepare tracing: %w", err)
	}
	options := []sdktrace.TracerProviderOption{sdktrace.WithResource(from)}
	sampler := sdktrace.NeverSample()
	if to != nil {
		how := []otlptracegrpc.Option{otlptracegrpc.WithInsecure()}
		if to.Endpoint != "" {
			how = append(how, otlptracegrpc.WithEndpoint(to.Endpoint))
		}
		exporter, err := otlptracegrpc.New(ctx, how...)
		if err != nil {
			return nil, fmt.Errorf("prepare tracing: %w", err)
		}
		options = append(options, sdktrace.WithBatcher(exporter))
		sampler = sdktrace.TraceIDRatioBased(float64(to.PerMillion) / 1e6)
	}
	sampler = sdktrace.ParentBased(sampler)
	if watcher != nil {
		options, sampler = append(options, sdktrace.WithSpanProcessor(watcher)), recordAll{sampler}
	}
	provider := sdktrace.NewTracerProvider(append(options, sdktrace.WithSampler(sampler))...)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { klog.FromContext(ctx).Error(err, "Spans could not be sent") }))
	otel.SetTracerProvider(provider)
	return provider, nil
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

// Stop sends what was not sent yet. A collector that cannot be reached does not keep the program from ending.
func Stop(provider *sdktrace.TracerProvider) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := provider.Shutdown(ctx); err != nil {
		klog.Background().Error(err, "The last spans could not be sent")
	}
}
