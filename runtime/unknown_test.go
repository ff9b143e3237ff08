package runtime

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/config/pod/podtest"
	"minikubelet/runtime/cri"
)

// forgetful is a runtime that does not know the state of one container, also after it stopped it.
type forgetful struct {
	runtimeapi.RuntimeServiceClient
	id string
}

func (f *forgetful) ListContainers(ctx context.Context, in *runtimeapi.ListContainersRequest, opts ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	answer, err := f.RuntimeServiceClient.ListContainers(ctx, in, opts...)
	for _, c := range answer.GetContainers() {
		if c.Id == f.id {
			c.State = cri.Unknown
		}
	}
	return answer, err
}

func (f *forgetful) ContainerStatus(ctx context.Context, in *runtimeapi.ContainerStatusRequest, opts ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	answer, err := f.RuntimeServiceClient.ContainerStatus(ctx, in, opts...)
	if in.ContainerId == f.id && answer.GetStatus() != nil {
		answer.Status.State = cri.Unknown
	}
	return answer, err
}

// TestUnknownStaysUnknown: a container whose state the runtime does not know, also after it stopped it, is stopped once in
// a sync, and its successor starts once.
func TestUnknownStaysUnknown(t *testing.T) {
	service := &forgetful{}
	b := newBench(t, func(o *Options) {
		service.RuntimeServiceClient = o.CRI.Runtime
		o.CRI.Runtime = service
	})
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	b.mustSync(t, pod)
	service.id = b.fake.ContainerID("a")
	b.fake.ResetCalls()
	result := b.mustSync(t, pod)
	if stops, starts := b.fake.Count("StopContainer"), b.fake.Count("StartContainer"); stops != 1 || starts != 1 {
		t.Errorf("stopped %d times, started %d times", stops, starts)
	}
	if !result.RetryAt.IsZero() {
		t.Error("the sync is repeated at once")
	}
	if n := strings.Count(b.events.all(), "Killing"); n != 1 {
		t.Errorf("%d events tell of the end:\n%s", n, b.events.all())
	}
}
