package eviction

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"minikubelet/runtime/cri"
)

// layers is a runtime that has containers of the pod "a", some of which have ended. It tells the writable layers of all,
// as containerd does.
type layers struct {
	runtimeapi.RuntimeServiceClient
	all []layer
}

type layer struct {
	id, name string
	ended    bool
	bytes    uint64
}

func (l *layers) ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest, ...grpc.CallOption) (*runtimeapi.ListContainerStatsResponse, error) {
	out := &runtimeapi.ListContainerStatsResponse{}
	for _, c := range l.all {
		out.Stats = append(out.Stats, &runtimeapi.ContainerStats{
			Attributes:    &runtimeapi.ContainerAttributes{Id: c.id, Metadata: &runtimeapi.ContainerMetadata{Name: c.name}, Labels: map[string]string{kubelettypes.KubernetesPodUIDLabel: "a"}},
			WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: &runtimeapi.UInt64Value{Value: c.bytes}},
		})
	}
	return out, nil
}

func (l *layers) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest, _ ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	out := &runtimeapi.ListContainersResponse{}
	for _, c := range l.all {
		state := runtimeapi.ContainerState_CONTAINER_RUNNING
		if c.ended {
			state = runtimeapi.ContainerState_CONTAINER_EXITED
		}
		if want := r.GetFilter().GetState(); want == nil || want.GetState() == state {
			out.Containers = append(out.Containers, &runtimeapi.Container{
				Id: c.id, State: state, Metadata: &runtimeapi.ContainerMetadata{Name: c.name}, Labels: map[string]string{kubelettypes.KubernetesPodUIDLabel: "a"},
			})
		}
	}
	return out, nil
}

// TestEndedContainers: what ended containers have written counts for no limit, in whichever order the runtime tells of
// them; what the container that runs has written does.
func TestEndedContainers(t *testing.T) {
	for name, tt := range map[string]struct {
		all  []layer
		want string
	}{
		"the one before wrote much":           {[]layer{{"2", "app", false, 100}, {"1", "app", true, 20_000}}, ""},
		"the one before wrote much, first":    {[]layer{{"1", "app", true, 20_000}, {"2", "app", false, 100}}, ""},
		"the one that runs wrote much":        {[]layer{{"2", "app", false, 20_000}, {"1", "app", true, 100}}, "a/1"},
		"the one that runs wrote much, later": {[]layer{{"1", "app", true, 100}, {"2", "app", false, 20_000}}, "a/1"},
		"an init container wrote much":        {[]layer{{"1", "init", true, 20_000}, {"2", "app", false, 100}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pod := podOf("a", 0, "", "")
				pod.Spec.InitContainers = []corev1.Container{{Name: "init"}}
				pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("10Ki")}
				w := newWorld(t, "evictionHard: {}\n", pod)
				w.CRI = &cri.Client{Runtime: &layers{all: tt.all}, Images: w.CRI.Images}
				go w.Run(t.Context())
				w.want(15*time.Second, tt.want)
			})
		})
	}
}
