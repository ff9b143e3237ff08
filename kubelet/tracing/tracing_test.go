package tracing

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace/noop"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	tracingapi "k8s.io/component-base/tracing/api/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/crifake"
	"minikubelet/runtime/cri"
)

// receiver is an OTLP collector that keeps what it gets.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string]*tracepb.Span // by name
	from  []string                 // service.name and host.name
}

func (r *receiver) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range request.ResourceSpans {
		r.from = nil
		for _, a := range of.Resource.Attributes {
			r.from = append(r.from, a.Key+"="+a.Value.GetStringValue())
		}
		for _, scope := range of.ScopeSpans {
			for _, s := range scope.Spans {
				r.spans[s.Name] = s
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// serve serves gRPC on loopback until the test ends.
func serve(t *testing.T, network, address string, register func(grpc.ServiceRegistrar), options ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen(network, address)
	must(t, err)
	server := grpc.NewServer(options...)
	register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); must(t, <-done) })
	return l.Addr().String()
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func attributes(s *tracepb.Span) string {
	var all []string
	for _, a := range s.GetAttributes() {
		all = append(all, a.Key+"="+a.Value.GetStringValue())
	}
	return strings.Join(all, " ")
}

// TestSpans: a pod's sync, its steps and its calls are one trace, which the runtime and the apiserver are told of.
func TestSpans(t *testing.T) {
	got := &receiver{spans: map[string]*tracepb.Span{}}
	endpoint := serve(t, "tcp", "127.0.0.1:0", func(r grpc.ServiceRegistrar) { collector.RegisterTraceServiceServer(r, got) })
	told := map[string]string{}
	socket := serve(t, "unix", t.TempDir()+"/cri.sock", func(r grpc.ServiceRegistrar) { runtimeapi.RegisterRuntimeServiceServer(r, crifake.New()) },
		grpc.UnaryInterceptor(func(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if of := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(of) > 0 {
				told[info.FullMethod] = of[0]
			}
			return next(ctx, request)
		}))
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { told["apiserver"] = r.Header.Get("traceparent") }))
	defer api.Close()

	tracing, err := New(t.Context(), &tracingapi.TracingConfiguration{Endpoint: &endpoint, SamplingRatePerMillion: new(int32(1000000))}, "node", nil)
	must(t, err)
	defer otel.SetTracerProvider(noop.NewTracerProvider())
	client, err := cri.Dial(cri.Options{Endpoint: "unix://" + socket, Calls: tracing.Calls()})
	must(t, err)
	defer client.Close()
	config := &rest.Config{Host: api.URL}
	tracing.Requests(config)
	apiClient, err := rest.HTTPClientFor(config)
	must(t, err)

	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1"}}
	ctx, end := cri.Step(t.Context(), "syncPod", pod)
	inner, endInner := cri.Step(ctx, "createPodSandbox", pod)
	_, err = client.Runtime.PodSandboxStatus(inner, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "none"})
	if err == nil {
		t.Error("a sandbox that is not there has a status")
	}
	endInner(err)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL, http.NoBody)
	must(t, err)
	answer, err := apiClient.Do(request)
	must(t, err)
	must(t, answer.Body.Close())
	end(nil)

	served := tracing.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	served.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/pods", http.NoBody))
	tracing.Stop()

	const call = "runtime.v1.RuntimeService/PodSandboxStatus"
	root := got.spans["syncPod"]
	trace := string(root.GetTraceId())
	for name, parent := range map[string]string{"createPodSandbox": "syncPod", call: "createPodSandbox", "HTTP GET": "syncPod"} {
		s := got.spans[name]
		if s == nil || string(s.TraceId) != trace || string(s.ParentSpanId) != string(got.spans[parent].GetSpanId()) {
			t.Errorf("the span %q is %v, want one below %q of trace %x", name, s, parent, trace)
		}
	}
	if a := attributes(root); !strings.Contains(a, "k8s.pod.uid=u1 k8s.pod=default/web k8s.pod.name=web k8s.namespace.name=default") {
		t.Errorf("attributes of syncPod: %s", a)
	}
	for name, failed := range map[string]bool{"syncPod": false, "createPodSandbox": true, call: true} {
		if is := got.spans[name].GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR; is != failed {
			t.Errorf("%s failed: %v, want %v", name, is, failed)
		}
	}
	for who, name := range map[string]string{"/" + call: call, "apiserver": "HTTP GET"} {
		if s := got.spans[name]; told[who] != "00-"+hex.EncodeToString(s.GetTraceId())+"-"+hex.EncodeToString(s.GetSpanId())+"-01" {
			t.Errorf("%s was told %q", who, told[who])
		}
	}
	if s := got.spans["GET"]; s == nil || string(s.TraceId) == trace || len(s.ParentSpanId) != 0 {
		t.Errorf("the request to the server has span %v, want a root", s)
	}
	if from := strings.Join(got.from, " "); from != "host.name=node service.name=kubelet" {
		t.Errorf("the spans are from %s", from)
	}
}

// TestNoTracing: without configuration nothing is made, and nothing is asked for.
func TestNoTracing(t *testing.T) {
	tracing, err := New(t.Context(), nil, "node", nil)
	if tracing != nil || err != nil {
		t.Fatalf("%v, %v", tracing, err)
	}
	config := &rest.Config{}
	tracing.Requests(config)
	tracing.Stop()
	handler := http.NewServeMux()
	if len(tracing.Calls()) != 0 || config.WrapTransport != nil || tracing.Handler(handler) != http.Handler(handler) {
		t.Error("something is done for tracing")
	}
}
