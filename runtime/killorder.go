package runtime

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// terminationOrder makes a sidecar wait for the regular containers and for the sidecars after it.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_termination_order.go
type terminationOrder struct {
	done   map[string]chan struct{} // container ID -> closed when it has ended
	before map[string][]string      // container ID -> those that end first
}

// newTerminationOrder returns nil for a pod without sidecars.
func newTerminationOrder(pod *corev1.Pod, containers []*cri.ContainerStatus) *terminationOrder {
	rank := map[string]int{} // regular and ephemeral 0, the last sidecar 1, the one before it 2 ...
	for i := len(pod.Spec.InitContainers) - 1; i >= 0; i-- {
		if podinfo.IsSidecar(&pod.Spec.InitContainers[i]) {
			rank[pod.Spec.InitContainers[i].Name] = len(rank) + 1
		}
	}
	if len(rank) == 0 {
		return nil
	}
	o := &terminationOrder{done: map[string]chan struct{}{}, before: map[string][]string{}}
	for _, c := range containers {
		o.done[c.ID] = make(chan struct{})
		for _, other := range containers {
			if rank[other.Name] < rank[c.Name] && !podinfo.IsEphemeral(pod, other.Name) {
				o.before[c.ID] = append(o.before[c.ID], other.ID)
			}
		}
	}
	return o
}

// wait returns when it is the container's turn, its grace period is over or the context ends.
func (o *terminationOrder) wait(ctx context.Context, id string, deadline time.Time) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	for _, other := range o.before[id] {
		select {
		case <-o.done[other]:
		case <-ctx.Done():
			return
		}
	}
}

func (o *terminationOrder) ended(id string) {
	if o != nil {
		close(o.done[id])
	}
}
