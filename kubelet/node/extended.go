package node

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// part: devices, kubelet/devices

// resetExtended says in the status of an object that another machine left that there are none of its extended resources:
// pods would be sent here for devices that this machine may not have.
//
// Upstream: pkg/kubelet/kubelet_node_status.go reconcileExtendedResource.
func (n *Node) resetExtended(ctx context.Context, have *corev1.Node) (*corev1.Node, error) {
	if n.reports.Recreated == nil || !n.reports.Recreated() {
		return have, nil
	}
	want := have.DeepCopy()
	for name := range othersResources(have.Status.Capacity) {
		if strings.Contains(string(name), "/") {
			want.Status.Capacity[name] = *resource.NewQuantity(0, resource.DecimalSI)
			want.Status.Allocatable[name] = *resource.NewQuantity(0, resource.DecimalSI)
		}
	}
	return n.patch(ctx, have, want, "status")
}
