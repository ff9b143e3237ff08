package e2e

import (
	"context"
	"fmt"
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
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

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

// collect starts a collector on a socket. stop ends it, after those that send to it.
func collect(t *testing.T) (got *spans, path string, stop func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "otlp.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	got = &spans{}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, got)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return got, path, func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

// tracingTo is the setting of a kubelet whose spans all go to a socket.
func tracingTo(path string) map[string]any {
	return map[string]any{"tracing": map[string]any{"endpoint": "unix://" + path, "samplingRatePerMillion": 1000000}}
}

// TestTracing: a collector is sent what is done for a pod, step by step, and the requests that the kubelet answers.
func TestTracing(t *testing.T) {
	got, path, stop := collect(t)
	ctx, _ := nodeWith(t, stack.KubeletOptions{Config: tracingTo(path)})
	t.Cleanup(func() {
		stopKubelet(t) // its last spans have somewhere to go
		stop()
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

// TestTracingCrid: the runtime as a program of its own sends its numbered steps to the collector too, as parts of the kubelet's, and
// begins traces for callers that send none.
func TestTracingCrid(t *testing.T) {
	ctx := onStack(t)
	got, path, stop := collect(t)
	t.Cleanup(stop)
	s, err := stack.Start(ctx, stack.Options{Runtime: stack.Crid, NoControlPlane: true, CridArgs: []string{"--tracing-endpoint=unix://" + path, "--tracing-sampling-rate-per-million=1000000"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	write(t, filepath.Join(s.ManifestDir(), "pod.yaml"), fmt.Sprintf(manifest, "pod", "red"))
	if _, err := s.StartKubelet(stack.KubeletOptions{Standalone: true, Config: tracingTo(path)}); err != nil {
		t.Fatal(err)
	}
	pod := standalone(ctx, t, s, "the pod is ready", isReady)
	const rpc = "runtime.v1.RuntimeService/"
	var have []string
	eventually(ctx, t, "the runtime's steps have come", func() bool {
		have = got.below("syncPod", "k8s.pod.uid="+string(pod.UID))
		return slices.Contains(have, "syncPod createPodSandbox "+rpc+"RunPodSandbox "+rpc+"RunPodSandbox RunPodSandbox 4") &&
			slices.Contains(have, "syncPod startContainer "+rpc+"CreateContainer "+rpc+"CreateContainer CreateContainer 6")
	})
	t.Log(strings.Join(have, ", "))
	if _, err := newCRIServer(t, s, stack.Crid).Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "a call without a trace has one", func() bool {
		got.mu.Lock()
		defer got.mu.Unlock()
		return slices.ContainsFunc(got.all, func(one *tracepb.Span) bool { return one.Name == rpc+"Version" && len(one.ParentSpanId) == 0 })
	})
}
