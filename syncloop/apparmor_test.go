package syncloop

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestAppArmor: a pod that asks for a profile, in whatever way, does not come to a machine that has none.
func TestAppArmor(t *testing.T) {
	profile := func(kind corev1.AppArmorProfileType, name ...string) *corev1.AppArmorProfile {
		p := &corev1.AppArmorProfile{Type: kind}
		if len(name) > 0 {
			p.LocalhostProfile = &name[0]
		}
		return p
	}
	ofPod := func(p *corev1.AppArmorProfile) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{AppArmorProfile: p}}}
	}
	container := func(p *corev1.AppArmorProfile) corev1.Container {
		return corev1.Container{Name: "c", SecurityContext: &corev1.SecurityContext{AppArmorProfile: p}}
	}
	annotated := func(value string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"container.apparmor.security.beta.kubernetes.io/c": value}}}
	}
	runtimeDefault, unconfined := profile(corev1.AppArmorProfileTypeRuntimeDefault), profile(corev1.AppArmorProfileTypeUnconfined)
	runs := ofPod(runtimeDefault)
	runs.Status.Phase = corev1.PodRunning
	const none = "Cannot enforce AppArmor: AppArmor is not enabled on the host"
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		host error
		want string
	}{
		"nothing":               {&corev1.Pod{}, ErrNoAppArmor, ""},
		"the pod's field":       {ofPod(runtimeDefault), ErrNoAppArmor, none},
		"unconfined":            {ofPod(unconfined), ErrNoAppArmor, ""},
		"a container's field":   {&corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{container(runtimeDefault)}}}, ErrNoAppArmor, none},
		"an init container's":   {&corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{container(profile(corev1.AppArmorProfileTypeLocalhost, "x"))}}}, ErrNoAppArmor, none},
		"annotation":            {annotated("runtime/default"), ErrNoAppArmor, none},
		"annotation, localhost": {annotated("localhost/x"), ErrNoAppArmor, none},
		"annotation, none":      {annotated("unconfined"), ErrNoAppArmor, ""},
		"it runs already":       {runs, ErrNoAppArmor, ""},
		"with AppArmor":         {ofPod(runtimeDefault), nil, ""},
		"no name":               {ofPod(profile(corev1.AppArmorProfileTypeLocalhost, " ")), nil, "Cannot enforce AppArmor: invalid empty AppArmor profile name"},
	} {
		got := Rejection{}
		if r := Admit(AdmissionInput{Pod: test.pod, Node: &corev1.Node{}, MaxPods: 10, AppArmor: test.host}); r != nil {
			got = *r
		}
		want := Rejection{"AppArmor", test.want}
		if test.want == "" {
			want = Rejection{}
		}
		if got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}
