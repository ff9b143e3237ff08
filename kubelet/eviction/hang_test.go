package eviction

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
)

// hung is a runtime that answers nothing until the call's own deadline, two minutes at most.
type hung struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient
}

func hang(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	<-ctx.Done()
	return ctx.Err()
}

func (hung) ListContainerStats(ctx context.Context, _ *runtimeapi.ListContainerStatsRequest, _ ...grpc.CallOption) (*runtimeapi.ListContainerStatsResponse, error) {
	return nil, hang(ctx)
}

func (hung) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest, _ ...grpc.CallOption) (*runtimeapi.ImageFsInfoResponse, error) {
	return nil, hang(ctx)
}

// TestHungRuntime: memory that runs short is told and acted on in time, though the runtime does not answer.
func TestHungRuntime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "evictionHard: {memory.available: 100Ki}\n", podOf("modest", 0, "500Ki", ""), podOf("greedy", 0, "10Ki", ""))
		w.memory = map[types.UID]int64{"modest": 400 << 10, "greedy": 300 << 10}
		w.observer.imageFs, w.observer.containerFs = "", ""
		w.observer.cri = &cri.Client{Runtime: hung{}, Images: hung{}}
		w.CRI = w.observer.cri
		go w.Run(t.Context())
		w.want(5*time.Second, "")
		w.free(99)
		w.want(monitoringPeriod+2*runtimePatience, "greedy/1", corev1.NodeMemoryPressure)
	})
}

// TestPlacesNotShared: the loop that watches pods' own limits and the one that watches the node ask the runtime where
// things are at the same time; the race detector judges.
func TestPlacesNotShared(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			limited := podOf("limited", 0, "", "")
			limited.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("1Gi")}
			w := newWorld(t, "evictionHard: {memory.available: 100Ki}\n", limited)
			w.observer.imageFs, w.observer.containerFs = "", ""
			ctx, cancel := context.WithCancel(t.Context())
			go w.Run(ctx)
			w.want(time.Second, "")
			cancel()
			synctest.Wait()
		})
	}
}
