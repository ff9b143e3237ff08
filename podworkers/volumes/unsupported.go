package volumes

import (
	"fmt"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Unsupported names the first volume of a kind that is left out, nil if there is none. Such a pod waits.
func Unsupported(pod *corev1.Pod) error {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if kindOf(v) == "" {
			return fmt.Errorf("spec.volumes[%d] (%s): volumes of kind %s are not supported by this kubelet (left out by decision: drivers are programs that speak CSI)", i, v.Name, sourceName(v))
		}
	}
	return nil
}

// Unsupported is the package's function of that name.
func (m *Manager) Unsupported(pod *corev1.Pod) error { return Unsupported(pod) }

// sourceName is the API's name of the volume's source.
func sourceName(v *corev1.Volume) string { return memberName(v.VolumeSource) }

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
