package syncloop

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
)

// preemptable tells whether a pod may be ended so that another starts.
//
// Upstream: pkg/kubelet/types/pod_update.go Preemptable
func preemptable(by, pod *corev1.Pod) bool {
	if podinfo.IsCritical(by) && !podinfo.IsCritical(pod) {
		return true
	}
	return by.Spec.Priority != nil && pod.Spec.Priority != nil && *by.Spec.Priority > *pod.Spec.Priority
}

// needs are amounts of resources that are to be freed.
type needs []need

type need struct {
	name   corev1.ResourceName
	amount int64
}

// victims returns the pods to end so that a critical pod has what it lacks: guaranteed ones only for what all burstable and
// best-effort ones do not free, burstable ones only for what the best-effort ones do not, and of each as few and as small
// ones as it takes. It is pure.
func victims(by *corev1.Pod, pods []*corev1.Pod, lacks []shortage) ([]*corev1.Pod, error) {
	var wanted needs
	for _, s := range lacks {
		wanted = append(wanted, need{s.name, s.requested - (s.capacity - s.used)})
	}
	classes := map[corev1.PodQOSClass][]*corev1.Pod{}
	for _, pod := range pods {
		if preemptable(by, pod) {
			class := podinfo.QOSClass(pod)
			classes[class] = append(classes[class], pod)
		}
	}
	bestEffort, burstable, guaranteed := classes[corev1.PodQOSBestEffort], classes[corev1.PodQOSBurstable], classes[corev1.PodQOSGuaranteed]
	if left := wanted.less(slices.Concat(bestEffort, burstable, guaranteed)); len(left) > 0 {
		return nil, fmt.Errorf("no set of running pods found to reclaim resources: %v", left)
	}
	guaranteed = nearest(guaranteed, wanted.less(slices.Concat(bestEffort, burstable)))
	burstable = nearest(burstable, wanted.less(slices.Concat(bestEffort, guaranteed)))
	bestEffort = nearest(bestEffort, wanted.less(slices.Concat(burstable, guaranteed)))
	return slices.Concat(bestEffort, burstable, guaranteed), nil
}

// nearest takes pods that together free what is needed, again and again the one that leaves least of it.
func nearest(pods []*corev1.Pod, left needs) (taken []*corev1.Pod) {
	pods = slices.Clone(pods)
	for len(left) > 0 && len(pods) > 0 {
		best := slices.MinFunc(pods, func(a, b *corev1.Pod) int {
			return cmp.Or(
				cmp.Compare(left.distance(a), left.distance(b)),
				cmp.Compare(requested(a, corev1.ResourceMemory), requested(b, corev1.ResourceMemory)),
				cmp.Compare(requested(a, corev1.ResourceCPU), requested(b, corev1.ResourceCPU)),
				cmp.Compare(a.UID, b.UID),
			)
		})
		taken = append(taken, best)
		left = left.less([]*corev1.Pod{best})
		pods = slices.DeleteFunc(pods, func(pod *corev1.Pod) bool { return pod == best })
	}
	return taken
}

// less is what is still needed when the pods have ended.
func (n needs) less(pods []*corev1.Pod) (left needs) {
	for _, each := range n {
		for _, pod := range pods {
			each.amount -= requested(pod, each.name)
		}
		if each.amount > 0 {
			left = append(left, each)
		}
	}
	return left
}

// distance is how much of what is needed a pod would leave. Each resource counts the same.
func (n needs) distance(pod *corev1.Pod) (distance float64) {
	for _, each := range n {
		if left := float64(each.amount - requested(pod, each.name)); left > 0 {
			part := left / float64(each.amount)
			distance += part * part
		}
	}
	return distance
}

// String is as upstream's messages have it.
func (n needs) String() string {
	var s strings.Builder
	for _, each := range n {
		fmt.Fprintf(&s, "(res: %v, q: %d), ", each.name, each.amount)
	}
	return "[" + s.String() + "]"
}
