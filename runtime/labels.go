package runtime

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubelettypes "k8s.io/kubelet/pkg/types"
	"k8s.io/utils/dump"

	"minikubelet/runtime/cri"
)

func podLabels(pod *corev1.Pod) map[string]string {
	out := make(map[string]string, len(pod.Labels)+3)
	maps.Copy(out, pod.Labels)
	out[kubelettypes.KubernetesPodNameLabel] = pod.Name
	out[kubelettypes.KubernetesPodNamespaceLabel] = pod.Namespace
	out[kubelettypes.KubernetesPodUIDLabel] = string(pod.UID)
	return out
}

func containerLabels(pod *corev1.Pod, container *corev1.Container) map[string]string {
	return map[string]string{
		kubelettypes.KubernetesPodNameLabel:       pod.Name,
		kubelettypes.KubernetesPodNamespaceLabel:  pod.Namespace,
		kubelettypes.KubernetesPodUIDLabel:        string(pod.UID),
		kubelettypes.KubernetesContainerNameLabel: container.Name,
	}
}

func containerAnnotations(pod *corev1.Pod, container *corev1.Container, attempt uint32) (map[string]string, error) {
	out := map[string]string{
		cri.AnnotationHash:                     hashContainer(container),
		cri.AnnotationRestartCount:             strconv.FormatUint(uint64(attempt), 10),
		cri.AnnotationTerminationMessagePath:   container.TerminationMessagePath,
		cri.AnnotationTerminationMessagePolicy: string(container.TerminationMessagePolicy),
	}
	if s := pod.DeletionGracePeriodSeconds; s != nil {
		out[cri.AnnotationPodDeletionGracePeriod] = strconv.FormatInt(*s, 10)
	}
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		out[cri.AnnotationPodTerminationGrace] = strconv.FormatInt(*s, 10)
	}
	if container.Lifecycle != nil && container.Lifecycle.PreStop != nil {
		text, err := json.Marshal(container.Lifecycle.PreStop)
		if err != nil {
			return nil, fmt.Errorf("lifecycle.preStop: %w", err)
		}
		out[cri.AnnotationPreStopHandler] = string(text)
	}
	if len(container.Ports) > 0 {
		text, err := json.Marshal(container.Ports)
		if err != nil {
			return nil, fmt.Errorf("ports: %w", err)
		}
		out[cri.AnnotationPorts] = string(text)
	}
	return out, nil
}

// hashContainer stands for the fields that make a running container restart when they change: name and image. It is
// the number an upstream kubelet computes, so that changing kubelets restarts nothing.
//
// Upstream: pkg/kubelet/container/helpers.go HashContainer
func hashContainer(container *corev1.Container) string {
	// A map of strings cannot fail to marshal.
	text, _ := json.Marshal(map[string]string{"name": container.Name, "image": container.Image})
	hash := fnv.New32a()
	fmt.Fprint(hash, dump.ForHash(text))
	return strconv.FormatUint(uint64(hash.Sum32()), 16)
}

// OrphanPod rebuilds, from labels and annotations, as much of a pod as ending it takes: it runs here and no source
// knows it. Its containers have name, preStop hook and ports.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go restoreSpecsFromContainerLabels
func OrphanPod(observed *cri.PodStatus) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: observed.UID, Namespace: observed.Namespace, Name: observed.Name}}
	seen := map[string]bool{}
	for _, status := range observed.Containers {
		if seen[status.Name] {
			continue
		}
		seen[status.Name] = true
		container := corev1.Container{Name: status.Name, TerminationMessagePath: status.Annotations[cri.AnnotationTerminationMessagePath]}
		// What cannot be read is left out: the container still has to end.
		var preStop corev1.LifecycleHandler
		if json.Unmarshal([]byte(status.Annotations[cri.AnnotationPreStopHandler]), &preStop) == nil {
			container.Lifecycle = &corev1.Lifecycle{PreStop: &preStop}
		}
		_ = json.Unmarshal([]byte(status.Annotations[cri.AnnotationPorts]), &container.Ports)
		pod.Spec.Containers = append(pod.Spec.Containers, container)
		if s := seconds(status.Annotations[cri.AnnotationPodDeletionGracePeriod]); s != nil {
			pod.DeletionGracePeriodSeconds = s
		}
		if s := seconds(status.Annotations[cri.AnnotationPodTerminationGrace]); s != nil {
			pod.Spec.TerminationGracePeriodSeconds = s
		}
	}
	return pod
}

func seconds(text string) *int64 {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return &n
	}
	return nil
}

// podName is how upstream's messages name a pod: name_namespace(uid).
func podName(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// PodLogsDirectory is a pod's log directory, <podLogsDir>/<namespace>_<name>_<uid>.
//
// Upstream: pkg/kubelet/kuberuntime/helpers.go BuildPodLogsDirectory
func PodLogsDirectory(podLogsDir, namespace, name string, uid types.UID) string {
	return filepath.Join(podLogsDir, strings.Join([]string{namespace, name, string(uid)}, "_"))
}

// logPath is a container's log relative to its pod's log directory.
func logPath(container string, attempt uint32) string {
	return filepath.Join(container, strconv.FormatUint(uint64(attempt), 10)+".log")
}

const maxFileName = 255

// logLink is the name log collectors know a container's log by.
//
// Upstream: pkg/kubelet/kuberuntime/legacy.go logSymlink
func logLink(dir, namespace, pod, container, id string) string {
	name := fmt.Sprintf("%s_%s_%s-%s", pod, namespace, container, id)
	return filepath.Join(dir, name[:min(len(name), maxFileName-len(".log"))]+".log")
}
