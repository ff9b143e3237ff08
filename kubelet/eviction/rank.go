package eviction

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	schedulingcorev1 "k8s.io/component-helpers/scheduling/corev1"
)

// space is what files take.
type space struct{ bytes, inodes int64 }

func (s *space) add(o space) { s.bytes, s.inodes = s.bytes+o.bytes, s.inodes+o.inodes }

func (s space) amount(resource corev1.ResourceName) int64 {
	if resource == resourceInodes {
		return s.inodes
	}
	return s.bytes
}

// podUsage is what a pod uses.
type podUsage struct {
	memory, processes int64
	containers        []containerUsage
	volumes           map[string]space // on the node's disk, by name
	host              space            // the kubelet's own files of the pod
	partial           bool             // not all of its files are counted yet
}

// containerUsage is what one of its containers uses.
type containerUsage struct {
	name         string
	memory       int64
	rootfs, logs space
}

func (c containerUsage) disk(measured contents) (sum space) {
	if measured.rootfs {
		sum.add(c.rootfs)
	}
	if measured.logs {
		sum.add(c.logs)
	}
	return sum
}

// usages are those of pods; one that could not be read is missing.
type usages map[types.UID]*podUsage

// contents says what is on a filesystem: of each pod its containers' writable layers, logs and volumes; and the dead
// containers and the images that can be removed from it.
type contents struct{ rootfs, logs, volumes, containers, images bool }

// contentsOf is what is on the filesystem of a signal.
func contentsOf(signal string, l layout) contents {
	onImageFs := signal == signalImageFs || signal == signalImageFsInodes
	onNodeFs := signal == signalNodeFs || signal == signalNodeFsInodes
	switch {
	case !l.imageFs:
		return contents{true, true, true, true, true}
	case l.containerFs && onImageFs:
		return contents{images: true}
	case l.containerFs:
		return contents{rootfs: true, logs: true, volumes: true, containers: true}
	case onNodeFs:
		return contents{logs: true, volumes: true}
	}
	return contents{rootfs: true, containers: true, images: true}
}

// disk adds up the parts that are measured.
//
// Upstream: pkg/kubelet/eviction/helpers.go podDiskUsage.
func (u *podUsage) disk(measured contents) (sum space) {
	for _, c := range u.containers {
		sum.add(c.disk(measured))
	}
	if measured.volumes {
		for _, volume := range u.volumes {
			sum.add(volume)
		}
	}
	return sum
}

// rank returns the pods in the order of their eviction: those that use more than they request first, of those the ones
// of low priority, and of those the ones that exceed it most. Processes are not requested. It is pure.
func rank(pods []*corev1.Pod, used usages, signal string, l layout) []*corev1.Pod {
	resource, measured := meanings[signal].resource, contentsOf(signal, l)
	amount := func(u *podUsage) int64 {
		switch resource {
		case corev1.ResourceMemory:
			return u.memory
		case resourcePIDs:
			return u.processes
		}
		return u.disk(measured).amount(resource)
	}
	type candidate struct {
		pod             *corev1.Pod
		exceeds, unread bool
		priority        int32
		excess          int64
	}
	var candidates []candidate
	for _, pod := range pods {
		c := candidate{pod: pod, priority: schedulingcorev1.PodPriority(pod)}
		if u := used[pod.UID]; u == nil {
			c.unread = true
		} else {
			c.excess = amount(u) - requested(pod, resource)
			c.exceeds = c.excess > 0
		}
		candidates = append(candidates, c)
	}
	slices.SortStableFunc(candidates, func(a, b candidate) int {
		// What could not be read is taken for the worst, as upstream does.
		worst := trueFirst(a.unread, b.unread)
		if resource == resourcePIDs {
			return cmp.Or(cmp.Compare(a.priority, b.priority), worst, cmp.Compare(b.excess, a.excess))
		}
		return cmp.Or(worst, trueFirst(a.exceeds, b.exceeds), cmp.Compare(a.priority, b.priority), cmp.Compare(b.excess, a.excess))
	})
	out := make([]*corev1.Pod, 0, len(pods))
	for _, c := range candidates {
		out = append(out, c.pod)
	}
	return out
}

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// requested is what the pod asks for in all; inodes and processes cannot be requested.
func requested(pod *corev1.Pod, resource corev1.ResourceName) int64 {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	quantity := requests[resource]
	return quantity.Value()
}
