package config

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// merger remembers what each source sent last, and which of those pods were passed on.
type merger struct {
	sent   map[string][]*corev1.Pod
	passed map[string]map[types.UID]*corev1.Pod
}

func newMerger() *merger {
	return &merger{sent: map[string][]*corev1.Pod{}, passed: map[string]map[types.UID]*corev1.Pod{}}
}

// merge takes a source's whole set and returns what changed: removals first, so that a name is free before another pod takes it. Of
// pods with one full name or UID the first counts, across sources too; when it is removed, one that was ignored is added, of any source.
// The first set of a source is an ADD even if it is empty.
//
// Upstream: pkg/kubelet/config/config.go podStorage.merge.
func (m *merger) merge(ctx context.Context, source string, pods []*corev1.Pod) []PodUpdate {
	began := time.Now()
	_, known := m.sent[source]
	m.sent[source] = pods
	names := m.held()
	var updates []PodUpdate
	// The source itself comes first: the next version of a pod has a better claim to its name than another source's pod.
	others := slices.DeleteFunc(slices.Sorted(maps.Keys(m.sent)), func(s string) bool { return s == source })
	for _, s := range append([]string{source}, others...) {
		before, after := m.passed[s], map[types.UID]*corev1.Pod{}
		var order []*corev1.Pod
		for _, pod := range m.sent[s] {
			if after[pod.UID] == nil && names.take(s, pod) {
				after[pod.UID] = pod
				order = append(order, pod)
			} else if s == source {
				klog.FromContext(ctx).Info("Ignoring a pod while another has its name or its UID", "pod", klog.KObj(pod), "podUID", pod.UID, "source", source, "takenBy", cmp.Or(names[podinfo.FullName(pod)], names["/"+string(pod.UID)]))
			}
		}
		m.passed[s] = after
		changes := diff(s, before, after, order)
		for _, u := range changes {
			for _, pod := range u.Pods {
				if podinfo.IsMirror(pod) {
					continue // its static pod's steps are told, under that one's UID
				}
				step, end := cri.Since(ctx, "merge", pod, began, cri.Why(u.Op.String()+" from "+s))
				if u.Op != RECONCILE { // the step that wrote the status says what changed
					cri.Changed(step, before[pod.UID], pod)
				}
				end(nil)
			}
		}
		updates = append(updates, changes...)
	}
	if !known && len(m.passed[source]) == 0 {
		updates = append(updates, PodUpdate{Op: ADD, Source: source})
	}
	return updates
}

// holders tells which pod of which source has a full name or, after a slash, a UID.
type holders map[string]holder

type holder struct {
	source string
	uid    types.UID
}

// held are the names of the pods that were passed on and that their sources still have.
func (m *merger) held() holders {
	held := holders{}
	for source, pods := range m.sent {
		for _, pod := range pods {
			if isVersion(m.passed[source][pod.UID], pod) {
				held.take(source, pod)
			}
		}
	}
	return held
}

// take gives the pod its name and its UID, which may stand in its manifest, unless another has one of them. A mirror has the name of
// its static pod, and takes it from no pod.
func (h holders) take(source string, pod *corev1.Pod) bool {
	if podinfo.IsMirror(pod) {
		return true
	}
	keys, it := [2]string{podinfo.FullName(pod), "/" + string(pod.UID)}, holder{source, pod.UID}
	for _, key := range keys {
		if have, held := h[key]; held && have != it {
			return false
		}
	}
	h[keys[0]], h[keys[1]] = it, it
	return true
}

// diff compares two sets of one source. It is pure.
func diff(source string, before, after map[types.UID]*corev1.Pod, order []*corev1.Pod) []PodUpdate {
	changes := map[Op][]*corev1.Pod{}
	for uid, pod := range before {
		if !isVersion(pod, after[uid]) {
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

// isVersion tells whether two pods with one UID are versions of one pod, and not nil. A manifest may give the UID: with another name
// it is another pod.
func isVersion(a, b *corev1.Pod) bool {
	return a != nil && b != nil && podinfo.FullName(a) == podinfo.FullName(b)
}

// compare tells what happened between two versions of a pod.
func compare(before, after *corev1.Pod) (Op, bool) {
	switch {
	case !isVersion(before, after):
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

// differ compares all but the status.
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
	delete(m, podinfo.SeenAnnotation)
	return m
}
