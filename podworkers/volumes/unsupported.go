package volumes

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Unsupported names the first volume of a kind that is left out, nil if containers use none. Such a pod waits.
func Unsupported(pod *corev1.Pod) error {
	for _, v := range used(pod) {
		if kindOf(v) == "" {
			i := slices.IndexFunc(pod.Spec.Volumes, func(other corev1.Volume) bool { return other.Name == v.Name })
			return fmt.Errorf("spec.volumes[%d] (%s): volumes of kind %s are not supported by this kubelet (left out by decision: drivers are programs that speak CSI)", i, v.Name, memberName(v.VolumeSource))
		}
	}
	return nil
}

// Unsupported is the package's function of that name.
func (m *Manager) Unsupported(pod *corev1.Pod) error { return Unsupported(pod) }

// memberName is the API's name of the one member of a union that is set.
func memberName(union any) string {
	value := reflect.ValueOf(union)
	for i := range value.NumField() {
		if !value.Field(i).IsNil() {
			name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "none"
}
