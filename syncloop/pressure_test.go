package syncloop

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
)

func TestAdmitUnderPressure(t *testing.T) {
	memory, disk := corev1.NodeMemoryPressure, corev1.NodeDiskPressure
	tolerates := []corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists}}
	for _, tt := range []struct {
		name     string
		pressure []corev1.NodeConditionType
		class    corev1.PodQOSClass
		change   func(*corev1.Pod)
		message  string
	}{
		{"none", nil, corev1.PodQOSBestEffort, nil, ""},
		{"memory, best effort", []corev1.NodeConditionType{memory}, corev1.PodQOSBestEffort, nil, "The node had condition: [MemoryPressure]. "},
		{"memory, burstable", []corev1.NodeConditionType{memory}, corev1.PodQOSBurstable, nil, ""},
		{"memory, tolerated", []corev1.NodeConditionType{memory}, corev1.PodQOSBestEffort, func(p *corev1.Pod) { p.Spec.Tolerations = tolerates }, ""},
		{"disk, guaranteed", []corev1.NodeConditionType{disk}, corev1.PodQOSGuaranteed, nil, "The node had condition: [DiskPressure]. "},
		{"both, burstable", []corev1.NodeConditionType{memory, disk}, corev1.PodQOSBurstable, nil, "The node had condition: [MemoryPressure DiskPressure]. "},
		{"disk, static", []corev1.NodeConditionType{disk}, corev1.PodQOSBestEffort, func(p *corev1.Pod) {
			p.Annotations = map[string]string{podinfo.SourceAnnotation: "file"}
		}, ""},
		{"disk, critical", []corev1.NodeConditionType{disk}, corev1.PodQOSBestEffort, func(p *corev1.Pod) { p.Spec.Priority = new(int32(2_000_001_000)) }, ""},
	} {
		pod := &corev1.Pod{Status: corev1.PodStatus{QOSClass: tt.class}}
		if tt.change != nil {
			tt.change(pod)
		}
		got := ""
		if r := Admit(AdmissionInput{Pod: pod, Pressure: tt.pressure, Node: &corev1.Node{}, MaxPods: 10}); r != nil {
			got = r.Message
			if r.Reason != "Evicted" {
				t.Errorf("%s: the reason is %s", tt.name, r.Reason)
			}
		}
		if got != tt.message {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.message)
		}
	}
	if r := Admit(AdmissionInput{Pod: &corev1.Pod{}, ShuttingDown: true, Node: &corev1.Node{}, MaxPods: 10}); r == nil || r.Reason != "NodeShutdown" {
		t.Errorf("on a machine that goes down: %v", r)
	}
}
