package kubelet

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/kubelet/oom"
)

// newOOMWatcher makes what reports processes that the kernel ended for lack of memory.
func newOOMWatcher(b *base, c *core) *oom.Watcher {
	return oom.New(oom.Options{Events: b.events, Node: c.node.Ref, Owner: c.inCgroup})
}

// inCgroup finds the pod whose cgroup the given one is or is below, and the name of the container by the last part of the
// path, which holds its ID with every runtime.
func (c *core) inCgroup(cgroup string) (pod *corev1.Pod, container string) {
	for _, p := range c.pods.All() {
		if above := c.cgroups.PodCgroup(p); above == "" || !strings.Contains(cgroup+"/", above+"/") {
			continue
		}
		if observed, ok := c.cache.Get(p.UID); ok {
			for _, s := range observed.Containers {
				if strings.Contains(cgroup, s.ID) {
					return p, s.Name
				}
			}
		}
		return p, ""
	}
	return nil, ""
}
