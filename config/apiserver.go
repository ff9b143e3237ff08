package config

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	podinfo "minikubelet/config/pod"
)

// watchPods is the apiserver source: a list and a watch of the pods bound to this node, no others. While the
// apiserver is away the last set stands.
//
// Upstream: pkg/kubelet/config/apiserver.go NewSourceApiserver.
func (c *Config) watchPods(ctx context.Context, send sink) {
	if c.opts.NodeSynced != nil {
		select {
		case <-c.opts.NodeSynced:
		case <-ctx.Done():
			return
		}
	}
	store := cache.NewUndeltaStore(func(items []any) {
		set := make([]*corev1.Pod, 0, len(items))
		for _, item := range items {
			if pod, ok := item.(*corev1.Pod); ok {
				set = append(set, pod)
			}
		}
		send(ctx, set)
	}, cache.MetaNamespaceKeyFunc)
	reflector := cache.NewReflectorWithOptions(c.opts.Pods, &corev1.Pod{}, stamping{store}, cache.ReflectorOptions{Name: "kubelet pods"})
	reflector.RunWithContext(ctx)
}

// stamping marks pods with their source and the time they were first seen, and drops their managed fields, before they enter the
// store. A pod in the store has been sent to the loop, so it is not changed any more.
type stamping struct{ cache.Store }

func (s stamping) Add(obj any) error    { return s.Store.Add(s.stamp(obj)) }
func (s stamping) Update(obj any) error { return s.Store.Update(s.stamp(obj)) }

func (s stamping) Replace(list []any, version string) error {
	for i := range list {
		list[i] = s.stamp(list[i])
	}
	return s.Store.Replace(list, version)
}

// stamp marks a pod. A later version of a pod has the time of the first: containers see the annotation.
func (s stamping) stamp(obj any) any {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj
	}
	pod.ManagedFields = nil
	annotations := maps.Clone(pod.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[podinfo.SeenAnnotation] = time.Now().Format(time.RFC3339Nano)
	if known, ok, err := s.Get(pod); err == nil && ok && known.(*corev1.Pod).UID == pod.UID {
		annotations[podinfo.SeenAnnotation] = known.(*corev1.Pod).Annotations[podinfo.SeenAnnotation]
	}
	annotations[podinfo.SourceAnnotation] = podinfo.SourceAPI
	if podinfo.IsMirror(pod) {
		// A mirror keeps the source of its static pod.
		annotations[podinfo.SourceAnnotation] = pod.Annotations[podinfo.SourceAnnotation]
	}
	pod.Annotations = annotations
	return pod
}
