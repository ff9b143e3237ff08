package cri_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/crifake"
	"minikubelet/runtime/cri"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDialEndpoint(t *testing.T) {
	for _, endpoint := range []string{"", "/run/x.sock", "tcp://127.0.0.1:1", "unix://relative.sock", "unix:x.sock", "unix://%zz"} {
		if _, err := cri.Dial(cri.Options{Endpoint: endpoint}); err == nil || !strings.Contains(err.Error(), "endpoint") {
			t.Errorf("Dial(%q) = %v, want an error that names the endpoint", endpoint, err)
		}
	}
}

// Calls fail at once while the runtime is away and work again soon after it is back.
func TestRuntimeAway(t *testing.T) {
	fake := crifake.Start(t)
	fake.Stop()
	client := fake.Client(t)
	version := func() error {
		_, err := client.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{})
		return err
	}
	for range 2 {
		start := time.Now()
		if err := version(); status.Code(err) != codes.Unavailable {
			t.Fatalf("Version without a runtime = %v, want Unavailable", err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("the call took %v to fail", took)
		}
		if err := fake.Resume(); err != nil {
			t.Fatal(err)
		}
		for start = time.Now(); version() != nil; time.Sleep(10 * time.Millisecond) {
			if time.Since(start) > 3*time.Second {
				t.Fatal("the runtime is back but calls fail")
			}
		}
		fake.Stop()
	}
}

func TestDeadline(t *testing.T) {
	fake := crifake.Start(t)
	fake.Delay("Version", time.Minute)
	client, err := cri.Dial(cri.Options{Endpoint: fake.Endpoint(), Timeout: 30 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = client.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("Version = %v, want a timeout", err)
	}
}

func TestMetrics(t *testing.T) {
	fake := crifake.Start(t)
	registry := prometheus.NewRegistry()
	client, err := cri.Dial(cri.Options{Endpoint: fake.Endpoint(), Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, _ = client.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{})
	_, _ = client.Runtime.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "none"})
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := client.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_, _ = stream.Recv()
	fake.FailNext("RunPodSandbox", context.Canceled)
	_, _ = client.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{RuntimeHandler: "kata"})
	want := `
# HELP kubelet_run_podsandbox_errors_total Sandboxes that failed to start.
# TYPE kubelet_run_podsandbox_errors_total counter
kubelet_run_podsandbox_errors_total{runtime_handler="kata"} 1
# HELP kubelet_runtime_operations_errors_total Calls to the container runtime that failed.
# TYPE kubelet_runtime_operations_errors_total counter
kubelet_runtime_operations_errors_total{operation_type="get_container_events"} 1
kubelet_runtime_operations_errors_total{operation_type="podsandbox_status"} 1
kubelet_runtime_operations_errors_total{operation_type="run_podsandbox"} 1
# HELP kubelet_runtime_operations_total Calls to the container runtime.
# TYPE kubelet_runtime_operations_total counter
kubelet_runtime_operations_total{operation_type="get_container_events"} 1
kubelet_runtime_operations_total{operation_type="podsandbox_status"} 1
kubelet_runtime_operations_total{operation_type="run_podsandbox"} 1
kubelet_runtime_operations_total{operation_type="version"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "kubelet_runtime_operations_total", "kubelet_runtime_operations_errors_total", "kubelet_run_podsandbox_errors_total"); err != nil {
		t.Error(err)
	}
}
