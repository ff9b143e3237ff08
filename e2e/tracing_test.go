package e2e

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"minikubelet/e2e/stack"
)

// spans is an OTLP collector that keeps what it gets.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu  sync.Mutex
	all []*tracepb.Span
}

func (s *spans) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range request.ResourceSpans {
		for _, scope := range of.ScopeSpans {
			s.all = append(s.all, scope.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// below returns the names of the spans that the root with this name and attribute is above, each with the names above it, once.
func (s *spans) below(name, attribute string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	paths, left := map[string]string{}, s.all
	for changed := true; changed; {
		changed = false
		var rest []*tracepb.Span
		for _, one := range left {
			parent, known := paths[string(one.ParentSpanId)]
			switch {
			case one.Name == name && hasAttribute(one, attribute):
				paths[string(one.SpanId)] = name
			case known:
				paths[string(one.SpanId)] = parent + " " + one.Name
			default:
				rest = append(rest, one)
				continue
			}
			changed = true
		}
		left = rest
	}
	var names []string
	for _, path := range paths {
		names = append(names, path)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func hasAttribute(s *tracepb.Span, want string) bool {
	return slices.ContainsFunc(s.Attributes, func(a *commonpb.KeyValue) bool { return a.Key+"="+a.Value.GetStringValue() == want })
}

// TestTracing: a collector is sent what is done for a pod, step by step, and the requests that the kubelet answers.
func TestTracing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "otlp.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	got := &spans{}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, got)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	ctx, _ := nodeWith(t, stack.KubeletOptions{Config: map[string]any{"tracing": map[string]any{"endpoint": "unix://" + path, "samplingRatePerMillion": 1000000}}})
	t.Cleanup(func() {
		stopKubelet(t) // its last spans have somewhere to go
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	pod := ready(ctx, t, newPod(t))
	kubectlRun(ctx, t, "logs", pod.Name)
	remove(ctx, t, pod)
	const rpc = "runtime.v1.RuntimeService/"
	for root, want := range map[string][]string{
		"syncPod": {
			"syncPod", "syncPod mountVolumes", "syncPod createPodSandbox", "syncPod createPodSandbox " + rpc + "RunPodSandbox",
			"syncPod startContainer", "syncPod startContainer " + rpc + "CreateContainer", "syncPod startContainer " + rpc + "StartContainer",
		},
		"syncTerminatingPod": {
			"syncTerminatingPod", "syncTerminatingPod killContainer", "syncTerminatingPod killContainer " + rpc + "StopContainer", "syncTerminatingPod " + rpc + "StopPodSandbox",
		},
		"syncTerminatedPod": {"syncTerminatedPod"},
	} {
		var have []string
		eventually(ctx, t, "all spans of "+root+" have come", func() bool {
			have = got.below(root, "k8s.pod.uid="+string(pod.UID))
			return !slices.ContainsFunc(want, func(name string) bool { return !slices.Contains(have, name) })
		})
		t.Logf("%s: %s", root, strings.Join(have, ", "))
	}
	if requests := got.below("GET /containerLogs/{namespace}/{pod}/{container}", "http.request.method=GET"); len(requests) == 0 {
		t.Error("the request for the log has no span")
	}
}
