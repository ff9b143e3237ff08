package cri

import (
	"context"
	"errors"
	"io"
	"math"
	"path"
	"strings"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// caller is what every call passes through: deadline and metrics.
//
// Upstream: pkg/kubelet/kuberuntime/instrumented_services.go
type caller struct {
	timeout       time.Duration
	total, failed *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	sandbox       *prometheus.HistogramVec // RunPodSandbox, by the class's handler
	sandboxFailed *prometheus.CounterVec
}

func newCaller(timeout time.Duration, registerer prometheus.Registerer) *caller {
	f := promauto.With(registerer)
	counter := func(name, help, label string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_" + name, Help: help}, []string{label})
	}
	histogram := func(name, help, label string, buckets []float64) *prometheus.HistogramVec {
		return f.NewHistogramVec(prometheus.HistogramOpts{Name: "kubelet_" + name, Help: help, Buckets: buckets}, []string{label})
	}
	const operation, handler = "operation_type", "runtime_handler"
	return &caller{
		timeout: timeout,
		total:   counter("runtime_operations_total", "Calls to the container runtime.", operation),
		failed:  counter("runtime_operations_errors_total", "Calls to the container runtime that failed.", operation),
		duration: histogram("runtime_operations_duration_seconds", "Seconds that calls to the container runtime took.", operation,
			prometheus.ExponentialBuckets(.005, 2.5, 14)),
		sandbox:       histogram("run_podsandbox_duration_seconds", "Seconds that starting a sandbox took.", handler, prometheus.DefBuckets),
		sandboxFailed: counter("run_podsandbox_errors_total", "Sandboxes that failed to start.", handler),
	}
}

// begin counts a call, and end counts how it went.
func (c *caller) begin(method string) (end func(error)) {
	name, start := operation(method), time.Now()
	c.total.WithLabelValues(name).Inc()
	return func(err error) {
		c.duration.WithLabelValues(name).Observe(time.Since(start).Seconds())
		if err != nil {
			c.failed.WithLabelValues(name).Inc()
		}
	}
}

func (c *caller) unary(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if limit := c.limit(request); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	end := c.begin(method)
	start := time.Now()
	err := invoke(ctx, method, request, reply, conn, options...)
	end(err)
	if r, ok := request.(*runtimeapi.RunPodSandboxRequest); ok {
		c.sandbox.WithLabelValues(r.RuntimeHandler).Observe(time.Since(start).Seconds())
		if err != nil {
			c.sandboxFailed.WithLabelValues(r.RuntimeHandler).Inc()
		}
	}
	return err
}

// stream has no deadline: the only one this kubelet opens is GetContainerEvents, which lasts as long as the runtime.
func (c *caller) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	end := c.begin(method)
	stream, err := open(ctx, desc, conn, method, options...)
	if err != nil {
		end(err)
		return nil, err
	}
	return &countedStream{ClientStream: stream, end: end}, nil
}

// countedStream ends the count when the stream ends.
type countedStream struct {
	grpc.ClientStream
	end func(error)
}

func (s *countedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil && s.end != nil {
		if errors.Is(err, io.EOF) {
			s.end(nil)
		} else {
			s.end(err)
		}
		s.end = nil
	}
	return err
}

// limit is how long a call may take, 0 for as long as it likes.
func (c *caller) limit(request any) time.Duration {
	switch r := request.(type) {
	case *runtimeapi.RunPodSandboxRequest, *runtimeapi.StopPodSandboxRequest:
		return 2 * c.timeout
	case *runtimeapi.StopContainerRequest:
		return c.plus(r.Timeout)
	case *runtimeapi.CheckpointContainerRequest:
		return c.plus(r.Timeout)
	case *runtimeapi.ExecSyncRequest:
		if r.Timeout <= 0 {
			return 0
		}
		return c.plus(r.Timeout)
	case *runtimeapi.PullImageRequest:
		return 0
	}
	return c.timeout
}

func (c *caller) plus(seconds int64) time.Duration {
	return c.timeout + min(Seconds(max(seconds, 0)), math.MaxInt64/2)
}

// Seconds is a number of seconds as a duration, and the longest duration for more than that, which is 292 years. Pods may
// ask for any number: a grace period of 10,000,000,000 s must not turn into a negative one.
func Seconds(n int64) time.Duration {
	const most = math.MaxInt64 / int64(time.Second)
	return time.Duration(min(max(n, -most), most)) * time.Second
}

// operation is the operation_type of a method, in upstream's spelling: RunPodSandbox is run_podsandbox.
func operation(method string) string {
	name := path.Base(method)
	if name == "UpdateContainerResources" {
		return "update_container"
	}
	name = strings.ReplaceAll(name, "PodSandbox", "Podsandbox")
	var out strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}
