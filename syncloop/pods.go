package syncloop

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	podinfo "minikubelet/config/pod"
)

// Pods is what should run on the node: every pod of every source, and for each static
// pod the mirror that stands for it in the apiserver. Safe for concurrent use.
//
// Upstream: pkg/kubelet/pod/pod_manager.go basicManager.
type Pods struct {
	mu      sync.RWMutex
	byUID   map[types.UID]*corev1.Pod
	byName  map[string]*corev1.Pod // full name, pods only
	mirrors map[string]*corev1.Pod // full name, mirror pods only
}

// NewPods returns an empty set.
func NewPods() *Pods {
	return &Pods{byUID: map[types.UID]*corev1.Pod{}, byName: map[string]*corev1.Pod{}, mirrors: map[string]*corev1.Pod{}}
}

// Set adds a pod or replaces an older version of it.
func (p *Pods) Set(pod *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := podinfo.FullName(pod)
	if podinfo.IsMirror(pod) {
		p.mirrors[name] = pod
		return
	}
	p.byUID[pod.UID] = pod
	p.byName[name] = pod
}

// Remove forgets a pod or a mirror pod.
func (p *Pods) Remove(pod *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := podinfo.FullName(pod)
	if podinfo.IsMirror(pod) {
		if m := p.mirrors[name]; m != nil && m.UID == pod.UID {
			delete(p.mirrors, name)
		}
		return
	}
	delete(p.byUID, pod.UID)
	if cur := p.byName[name]; cur != nil && cur.UID == pod.UID {
		delete(p.byName, name)
	}
}

// Get returns the pod with this UID. Mirror pods are not found by theirs.
func (p *Pods) Get(uid types.UID) (*corev1.Pod, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	pod, ok := p.byUID[uid]
	return pod, ok
}

// All returns the pods, without mirrors, in no order.
func (p *Pods) All() []*corev1.Pod {
	p.mu.RLock()
	defer p.mu.RUnlock()
	all := make([]*corev1.Pod, 0, len(p.byUID))
	for _, pod := range p.byUID {
		all = append(all, pod)
	}
	return all
}
