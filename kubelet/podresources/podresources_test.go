package podresources

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
	alpha "k8s.io/kubelet/pkg/apis/podresources/v1alpha1"
)

// oneDevice is what every container has.
type oneDevice struct{}

func (oneDevice) Devices(types.UID, string) []*api.ContainerDevices { return oneDevice{}.All() }

func (oneDevice) All() []*api.ContainerDevices {
	return []*api.ContainerDevices{{ResourceName: "example.com/device", DeviceIds: []string{"dev-1"}}}
}

// TestUntilAllPodsAreKnown: a kubelet that has just started does not tell of fewer pods than there are; what does not depend on
// them is told.
func TestUntilAllPodsAreKnown(t *testing.T) {
	pods := func() []*corev1.Pod {
		return []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}}
	}
	var known atomic.Bool
	dir := t.TempDir()
	s := New(Options{Dir: dir, Active: pods, Pods: pods, Devices: oneDevice{}, Known: known.Load})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := api.NewPodResourcesListerClient(conn)
	get := &api.GetPodResourcesRequest{PodNamespace: "ns", PodName: "pod"}
	if all, err := client.GetAllocatableResources(ctx, &api.AllocatableResourcesRequest{}); err != nil || len(all.GetDevices()) != 1 {
		t.Errorf("GetAllocatableResources: %v, %v", all, err)
	}
	if _, err := client.List(ctx, &api.ListPodResourcesRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("List: %v", err)
	}
	if _, err := client.Get(ctx, get); status.Code(err) != codes.Unavailable {
		t.Errorf("Get: %v", err)
	}
	if _, err := alpha.NewPodResourcesListerClient(conn).List(ctx, &alpha.ListPodResourcesRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("List of v1alpha1: %v", err)
	}
	known.Store(true)
	if list, err := client.List(ctx, &api.ListPodResourcesRequest{}); err != nil || len(list.GetPodResources()) != 1 || list.GetPodResources()[0].GetContainers()[0].GetDevices()[0].GetDeviceIds()[0] != "dev-1" {
		t.Errorf("List: %v, %v", list, err)
	}
	if one, err := client.Get(ctx, get); err != nil || one.GetPodResources().GetName() != "pod" {
		t.Errorf("Get: %v, %v", one, err)
	}
	if list, err := alpha.NewPodResourcesListerClient(conn).List(ctx, &alpha.ListPodResourcesRequest{}); err != nil || len(list.GetPodResources()) != 1 {
		t.Errorf("List of v1alpha1: %v, %v", list, err)
	}
}
