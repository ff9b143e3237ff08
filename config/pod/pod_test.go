package pod_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	podinfo "minikubelet/config/pod"
)

func TestKinds(t *testing.T) {
	const source, mirror = podinfo.SourceAnnotation, podinfo.MirrorAnnotation
	for name, tc := range map[string]struct {
		annotations              map[string]string
		priority                 *int32
		static, mirror, critical bool
	}{
		"no source":         {},
		"apiserver":         {annotations: map[string]string{source: "api"}},
		"file":              {annotations: map[string]string{source: "file"}, static: true, critical: true},
		"url":               {annotations: map[string]string{source: "http"}, static: true, critical: true},
		"mirror":            {annotations: map[string]string{source: "file", mirror: "hash"}, mirror: true, critical: true},
		"mirror of nothing": {annotations: map[string]string{source: "api", mirror: ""}, mirror: true, critical: true},
		"highest of users":  {priority: new(int32(1_000_000_000))},
		"system critical":   {priority: new(int32(podinfo.SystemCriticalPriority)), critical: true},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: tc.annotations}, Spec: corev1.PodSpec{Priority: tc.priority}}
		if static, mirror, critical := podinfo.IsStatic(pod), podinfo.IsMirror(pod), podinfo.IsCritical(pod); static != tc.static || mirror != tc.mirror || critical != tc.critical {
			t.Errorf("%s: static %v, mirror %v, critical %v", name, static, mirror, critical)
		}
	}
}

func TestContainers(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "i"}, {Name: "s", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}},
		Containers:     []corev1.Container{{Name: "a"}, {Name: "b"}},
		EphemeralContainers: []corev1.EphemeralContainer{
			{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e"}},
		},
	}}
	var all, both, lasting, paths []string
	for c := range podinfo.AllContainers(pod) {
		all = append(all, c.Name)
		paths = append(paths, podinfo.FieldPath(pod, c.Name))
		if podinfo.Container(pod, c.Name) != c {
			t.Errorf("container %s is not found", c.Name)
		}
	}
	for c := range podinfo.Containers(pod) {
		both = append(both, c.Name)
	}
	for c := range podinfo.LastingContainers(pod) {
		lasting = append(lasting, c.Name)
	}
	if !slices.Equal(all, []string{"i", "s", "a", "b", "e"}) || !slices.Equal(both, all[:4]) || !slices.Equal(lasting, all[1:4]) {
		t.Errorf("all %v, init and regular %v, lasting %v", all, both, lasting)
	}
	want := []string{"spec.initContainers{i}", "spec.initContainers{s}", "spec.containers{a}", "spec.containers{b}", "spec.ephemeralContainers{e}"}
	if !slices.Equal(paths, want) {
		t.Errorf("paths %v", paths)
	}
	if podinfo.Container(pod, "none") != nil {
		t.Error("a container that is not there is found")
	}
}

func TestContainerRestartPolicy(t *testing.T) {
	rule := func(op corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) []corev1.ContainerRestartRule {
		return []corev1.ContainerRestartRule{{
			Action:    corev1.ContainerRestartRuleActionRestart,
			ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes},
		}}
	}
	in, notIn := corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn
	for _, tc := range []struct {
		pod   corev1.RestartPolicy
		own   corev1.ContainerRestartPolicy
		rules []corev1.ContainerRestartRule
		code  int32
		want  bool
	}{
		{"", "", nil, 0, true},
		{corev1.RestartPolicyAlways, corev1.ContainerRestartPolicyNever, nil, 1, false},
		{corev1.RestartPolicyNever, corev1.ContainerRestartPolicyAlways, nil, 0, true},
		{corev1.RestartPolicyNever, corev1.ContainerRestartPolicyOnFailure, nil, 0, false},
		{corev1.RestartPolicyNever, corev1.ContainerRestartPolicyOnFailure, nil, 1, true},
		{corev1.RestartPolicyNever, corev1.ContainerRestartPolicyNever, rule(in, 42), 42, true},
		{corev1.RestartPolicyNever, corev1.ContainerRestartPolicyNever, rule(in, 42), 1, false},
		{corev1.RestartPolicyNever, corev1.ContainerRestartPolicyNever, rule(notIn, 42), 42, false},
		{corev1.RestartPolicyNever, corev1.ContainerRestartPolicyNever, rule(notIn, 42), 1, true},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: tc.pod, Containers: []corev1.Container{{Name: "a"}}}}
		if tc.own != "" {
			pod.Spec.Containers[0].RestartPolicy = &tc.own
		}
		pod.Spec.Containers[0].RestartPolicyRules = tc.rules
		if got := podinfo.Restarts(pod, &pod.Spec.Containers[0], tc.code); got != tc.want {
			t.Errorf("pod %q container %q rules %v code %d: %v", tc.pod, tc.own, tc.rules, tc.code, got)
		}
	}
}
