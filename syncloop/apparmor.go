package syncloop

import (
	"errors"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ErrNoAppArmor is why no pod gets a profile on a machine without AppArmor.
//
// Upstream: pkg/security/apparmor/validate.go validateHost.
var ErrNoAppArmor = errors.New("AppArmor is not enabled on the host")

// AppArmor asks the kernel, nil if it has AppArmor.
func AppArmor() error {
	if enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err != nil || !strings.HasPrefix(string(enabled), "Y") {
		return ErrNoAppArmor
	}
	return nil
}

// checkAppArmor refuses a pod that asks for a profile on a machine without AppArmor. A pod that runs already is not refused.
func checkAppArmor(in AdmissionInput) *Rejection {
	if phase := in.Pod.Status.Phase; phase != corev1.PodPending && phase != "" {
		return nil
	}
	profiles := appArmorProfiles(in.Pod)
	confined := false
	for _, p := range profiles {
		confined = confined || p.Type != corev1.AppArmorProfileTypeUnconfined
	}
	if !confined {
		return nil
	}
	err := in.AppArmor
	for _, p := range profiles {
		if err == nil && p.Type == corev1.AppArmorProfileTypeLocalhost && (p.LocalhostProfile == nil || strings.TrimSpace(*p.LocalhostProfile) == "") {
			err = errors.New("invalid empty AppArmor profile name")
		}
	}
	if err == nil {
		return nil
	}
	return &Rejection{"AppArmor", fmt.Sprintf("Cannot enforce AppArmor: %v", err)}
}

// appArmorProfiles are those that a pod asks for, by field or by the annotations that came before.
func appArmorProfiles(pod *corev1.Pod) (profiles []*corev1.AppArmorProfile) {
	add := func(p *corev1.AppArmorProfile) {
		if p != nil {
			profiles = append(profiles, p)
		}
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		add(sc.AppArmorProfile)
	}
	ofContainer := func(sc *corev1.SecurityContext) {
		if sc != nil {
			add(sc.AppArmorProfile)
		}
	}
	for i := range pod.Spec.InitContainers {
		ofContainer(pod.Spec.InitContainers[i].SecurityContext)
	}
	for i := range pod.Spec.Containers {
		ofContainer(pod.Spec.Containers[i].SecurityContext)
	}
	for i := range pod.Spec.EphemeralContainers {
		ofContainer(pod.Spec.EphemeralContainers[i].SecurityContext)
	}
	for key, value := range pod.Annotations {
		if !strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) {
			continue
		}
		name, local := strings.CutPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
		switch {
		case value == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
			add(&corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined})
		case local:
			add(&corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name})
		default:
			add(&corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault})
		}
	}
	return profiles
}
