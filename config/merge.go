package config

import (
	"context"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// merger remembers what each source sent last.
type merger struct {
	sources map[string]map[types.UID]*corev1.Pod
}

func newMerger() *merger { return &merger{sources: map[string]map[types.UID]*corev1.Pod{}} }

// merge takes a source's whole set and returns what changed: first what goes, then what comes and changes, so that a
// name is free before another pod takes it. Of pods with one full name the first wins, across sources too.
//
// Upstream: pkg/kubelet/config/config.go podStorage.merge.
func (m *merger) merge(ctx context.Context, source string, pods []*corev1.Pod) []PodUpdate {
	taken := map[string]string{} // full name -> who has it
	for other, set := range m.sources {
		if other == source {
			continue
		}
		for _, pod := range set {
			if !IsMirror(pod) {
				taken[FullName(pod)] = other
			}
		}
	}
	before, after := m.sources[source], map[types.UID]*corev1.Pod{}
	var order []*corev1.Pod
	for _, pod := range pods {
		if !IsMirror(pod) {
			// A mirror has the name of its static pod; it stands for it and takes nothing away.
			if owner, dup := taken[FullName(pod)]; dup {
				klog.FromContext(ctx).Info("Ignoring a pod whose name is taken", "pod", klog.KObj(pod), "podUID", pod.UID, "source", source, "takenBy", owner)
				continue
			}
			taken[FullName(pod)] = source
		}
		after[pod.UID] = pod
		order = append(order, pod)
	}
	m.sources[source] = after
	return diff(source, before, after, order)
}

// diff compares two sets of one source. It is pure.
func diff(source string, before, after map[types.UID]*corev1.Pod, order []*corev1.Pod) []PodUpdate {
	changes := map[Op][]*corev1.Pod{}
	for uid, pod := range before {
		if after[uid] == nil {
			changes[REMOVE] = append(changes[REMOVE], pod)
		}
	}
	slices.SortFunc(changes[REMOVE], func(a, b *corev1.Pod) int { return strings.Compare(string(a.UID), string(b.UID)) })
	for _, pod := range order {
		if op, changed := compare(before[pod.UID], pod); changed {
			changes[op] = append(changes[op], pod)
		}
	}
	var updates []PodUpdate
	for _, op := range []Op{REMOVE, ADD, UPDATE, DELETE, RECONCILE} {
		if len(changes[op]) > 0 {
			updates = append(updates, PodUpdate{Op: op, Source: source, Pods: changes[op]})
		}
	}
	return updates
}

// compare tells what makes one version of a pod another.
//
// Upstream: pkg/kubelet/config/config.go checkAndUpdatePod.
func compare(before, after *corev1.Pod) (Op, bool) {
	switch {
	case before == nil:
		return ADD, true
	case before == after || after.ResourceVersion != "" && before.ResourceVersion == after.ResourceVersion:
		return 0, false
	case differ(before, after) && after.DeletionTimestamp != nil:
		return DELETE, true
	case differ(before, after):
		return UPDATE, true
	case !equality.Semantic.DeepEqual(before.Status, after.Status):
		return RECONCILE, true
	}
	return 0, false
}

// differ compares what a pod is told to be, not how it is.
//
// Upstream: pkg/kubelet/config/config.go podsDifferSemantically.
func differ(a, b *corev1.Pod) bool {
	return !equality.Semantic.DeepEqual(a.Spec, b.Spec) ||
		!maps.Equal(a.Labels, b.Labels) ||
		!maps.Equal(lasting(a.Annotations), lasting(b.Annotations)) ||
		!a.DeletionTimestamp.Equal(b.DeletionTimestamp) ||
		!equality.Semantic.DeepEqual(a.DeletionGracePeriodSeconds, b.DeletionGracePeriodSeconds)
}

// lasting leaves out the annotation that tells when the pod was seen.
func lasting(annotations map[string]string) map[string]string {
	m := maps.Clone(annotations)
	delete(m, SeenAnnotation)
	return m
}
