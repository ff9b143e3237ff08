package env

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	podinfo "minikubelet/config/pod"
)

// FieldRef returns the value of a pod's field, as environment variables and downward API volumes have it. Of the
// status only what is known before the container starts can be referred to.
//
// Upstream: pkg/fieldpath/fieldpath.go ExtractFieldPathAsString and pkg/kubelet/kubelet_pods.go podFieldSelectorRuntimeValue.
func FieldRef(pod *corev1.Pod, path string, podIPs, hostIPs []string) (string, error) {
	if name, subscript, ok := subscripted(path); ok {
		switch name {
		case "metadata.annotations":
			return pod.Annotations[subscript], nil
		case "metadata.labels":
			return pod.Labels[subscript], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP", "status.hostIPs":
		if len(hostIPs) == 0 {
			return "", errors.New("host IP unknown: the node has no address yet")
		}
		if path == "status.hostIP" {
			return hostIPs[0], nil
		}
		return strings.Join(hostIPs, ","), nil
	case "status.podIP":
		return cmp.Or(podIPs...), nil
	case "status.podIPs":
		return strings.Join(podIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

// subscripted splits metadata.labels['x'].
func subscripted(path string) (name, subscript string, ok bool) {
	name, rest, found := strings.Cut(path, "['")
	if !found || !strings.HasSuffix(rest, "']") {
		return "", "", false
	}
	return name, strings.TrimSuffix(rest, "']"), true
}

// formatMap writes a line key="value" for each entry, sorted by key.
func formatMap(m map[string]string) string {
	var out strings.Builder
	for _, key := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&out, "%v=%q\n", key, m[key])
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// ResourceFieldRef returns a resource of the named container, or of c if none is named, divided by the divisor and
// rounded up. A limit that is not set is the pod's own, or else the node's allocatable.
//
// Upstream: pkg/kubelet/kubelet_resources.go defaultPodLimitsForDownwardAPI.
func ResourceFieldRef(ref *corev1.ResourceFieldSelector, pod *corev1.Pod, c *corev1.Container, allocatable corev1.ResourceList) (string, error) {
	if ref.ContainerName != "" {
		if c = podinfo.Container(pod, ref.ContainerName); c == nil {
			return "", fmt.Errorf("container %s not found", ref.ContainerName)
		}
	}
	if c == nil {
		return "", fmt.Errorf("resourceFieldRef %s: no container is named", ref.Resource)
	}
	kind, name, ok := strings.Cut(ref.Resource, ".")
	if !ok || kind != "limits" && kind != "requests" {
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	list := c.Resources.Requests
	if kind == "limits" {
		list = c.Resources.Limits
	}
	quantity := list[corev1.ResourceName(name)]
	known := name == "cpu" || name == "memory" || name == "ephemeral-storage"
	if !known && !strings.HasPrefix(name, "hugepages-") {
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	if quantity.IsZero() && kind == "limits" && known {
		if own := pod.Spec.Resources; own != nil {
			quantity = own.Limits[corev1.ResourceName(name)]
		}
		if quantity.IsZero() {
			quantity = allocatable[corev1.ResourceName(name)]
		}
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == "cpu" {
		return fmt.Sprint(int64(math.Ceil(float64(quantity.MilliValue()) / float64(divisor.MilliValue())))), nil
	}
	return fmt.Sprint(int64(math.Ceil(float64(quantity.Value()) / float64(divisor.Value())))), nil
}
