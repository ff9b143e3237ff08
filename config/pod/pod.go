// Package pod answers questions about a pod from its object alone: where it came from, what its containers are, when they
// restart. It imports nothing of this module, so that every package can ask, and each question has one answer.
package pod

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	schedulingcorev1 "k8s.io/component-helpers/scheduling/corev1"
)

// Annotations that say where a pod came from.
//
// Upstream: pkg/kubelet/types/pod_update.go
const (
	SourceAnnotation = "kubernetes.io/config.source" // one of the sources below
	SeenAnnotation   = "kubernetes.io/config.seen"   // when this kubelet first had the pod
	HashAnnotation   = "kubernetes.io/config.hash"   // of a static pod: the version of its manifest
	MirrorAnnotation = corev1.MirrorPodAnnotationKey // of a mirror: the hash of the static pod that it stands for
)

// Sources of pods.
const (
	SourceAPI  = "api"
	SourceFile = "file"
	SourceHTTP = "http"
)

// SystemCriticalPriority is the lowest priority of pods that the cluster needs in order to work.
const SystemCriticalPriority = 2_000_000_000

// IsMirror tells whether the pod is the apiserver's picture of a static pod.
func IsMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[MirrorAnnotation]
	return ok
}

// IsStatic tells whether the pod came from a file or a URL. The mirror of such a pod, which names the same source, did not.
func IsStatic(pod *corev1.Pod) bool {
	source := pod.Annotations[SourceAnnotation]
	return source != "" && source != SourceAPI && !IsMirror(pod)
}

// IsCritical tells whether the node must not do without the pod: a static one or its mirror, or one of system priority.
func IsCritical(pod *corev1.Pod) bool {
	return IsStatic(pod) || IsMirror(pod) || schedulingcorev1.PodPriority(pod) >= SystemCriticalPriority
}

// FullName names a pod as its source sees it: a static pod and its mirror share it, and so do a pod and its successor.
func FullName(pod *corev1.Pod) string { return pod.Name + "_" + pod.Namespace }

// FirstSeen is when this kubelet, or the one before it, first had the pod. The annotations are the pod's or its sandbox's.
func FirstSeen(annotations map[string]string) (at time.Time, known bool) {
	at, err := time.Parse(time.RFC3339Nano, annotations[SeenAnnotation])
	return at, err == nil
}

// FSGroup is the group that the pod's volumes belong to, nil if it asks for none.
func FSGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// CheckUID keeps a UID, which names a directory, from naming anything else.
func CheckUID(uid types.UID) error {
	if uid == "" || uid == "." || !filepath.IsLocal(string(uid)) || strings.Contains(string(uid), "/") {
		return fmt.Errorf("pod UID %q cannot name a directory", uid)
	}
	return nil
}

// HasUserNamespace tells whether the pod asks for a user namespace of its own.
func HasUserNamespace(pod *corev1.Pod) bool { return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers }
