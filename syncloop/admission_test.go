package syncloop

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	podinfo "minikubelet/config/pod"
)

func requesting(cpu, memory string) corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)},
	}}}}
}

func withPort(ip string, port int32, protocol corev1.Protocol) corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{HostIP: ip, HostPort: port, Protocol: protocol}}}}}
}

func needing(what map[corev1.ResourceName]string) corev1.PodSpec {
	requests := corev1.ResourceList{}
	for name, quantity := range what {
		requests[name] = resource.MustParse(quantity)
	}
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: requests}}}}
}

func TestAdmit(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	sidecar := requesting("1", "1Mi")
	sidecar.InitContainers = []corev1.Container{{Name: "s", RestartPolicy: &always, Resources: requesting("2", "1Mi").Containers[0].Resources}}
	overhead := requesting("2", "1Mi")
	overhead.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")}
	required := func(values ...string) *corev1.Affinity {
		return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: values}}}},
		}}}
	}
	strict := corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{SupplementalGroupsPolicy: new(corev1.SupplementalGroupsPolicyStrict)}}
	tests := []struct {
		name            string
		spec            corev1.PodSpec
		labels          map[string]string
		static          bool
		others          []corev1.PodSpec
		taints          []corev1.Taint
		features        *corev1.NodeFeatures
		maxPods         int
		reason, message string
	}{
		{name: "an empty node"},
		{name: "fits", spec: requesting("1", "1Gi"), others: []corev1.PodSpec{requesting("2", "1Gi")}},
		{name: "too many pods", others: []corev1.PodSpec{{}, {}}, maxPods: 2, reason: "OutOfpods", message: "requested: 1, used: 2, capacity: 2"},
		{name: "cpu", spec: requesting("2", "1Mi"), others: []corev1.PodSpec{requesting("1500m", "1Mi")}, reason: "OutOfcpu", message: "requested: 2000, used: 1500, capacity: 3000"},
		{name: "memory", spec: requesting("1", "5Gi"), reason: "OutOfmemory", message: "memory"},
		{name: "memory before storage", spec: needing(map[corev1.ResourceName]string{"ephemeral-storage": "2", "memory": "5Gi", "example.com/scarce": "2"}), reason: "OutOfmemory"},
		{name: "storage before devices", spec: needing(map[corev1.ResourceName]string{"ephemeral-storage": "2", "example.com/scarce": "2"}), reason: "OutOfephemeral-storage"},
		{name: "devices", spec: needing(map[corev1.ResourceName]string{"example.com/scarce": "2"}), reason: "OutOfexample.com/scarce", message: "requested: 2, used: 0, capacity: 1"},
		{name: "what the node does not know", spec: needing(map[corev1.ResourceName]string{"example.com/clusterwide": "2"})},
		{name: "huge pages that the node does not have", spec: needing(map[corev1.ResourceName]string{"hugepages-2Mi": "4Mi"}), reason: "OutOfhugepages-2Mi"},
		{name: "sidecars count", spec: sidecar, others: []corev1.PodSpec{requesting("500m", "1Mi")}, reason: "OutOfcpu"},
		{name: "overhead counts", spec: overhead, reason: "OutOfcpu"},
		{name: "selector", spec: corev1.PodSpec{NodeSelector: map[string]string{"zone": "b"}}, reason: "NodeAffinity", message: "Predicate NodeAffinity failed"},
		{name: "selector that fits", spec: corev1.PodSpec{NodeSelector: map[string]string{"zone": "a"}}},
		{name: "affinity", spec: corev1.PodSpec{Affinity: required("b")}, reason: "NodeAffinity"},
		{name: "affinity that fits", spec: corev1.PodSpec{Affinity: required("a", "b")}},
		{name: "static pods are where they are", spec: corev1.PodSpec{Affinity: required("b")}, static: true},
		{name: "another node", spec: corev1.PodSpec{NodeName: "other"}, reason: "NodeName"},
		{name: "port", spec: withPort("", 80, "TCP"), others: []corev1.PodSpec{withPort("10.0.0.1", 80, "TCP")}, reason: "NodePorts"},
		{name: "port of another protocol", spec: withPort("", 80, "UDP"), others: []corev1.PodSpec{withPort("", 80, "TCP")}},
		{name: "port of another address", spec: withPort("10.0.0.2", 80, "TCP"), others: []corev1.PodSpec{withPort("10.0.0.1", 80, "TCP")}},
		{name: "taint", taints: []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute}}, reason: "TaintToleration"},
		{name: "taint for the scheduler", taints: []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}},
		{name: "tolerated taint", taints: []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute}}, spec: corev1.PodSpec{Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}}},
		{name: "operating system", spec: corev1.PodSpec{OS: &corev1.PodOS{Name: corev1.Windows}}, reason: "PodOSNotSupported"},
		{name: "operating system's label", labels: map[string]string{corev1.LabelOSStable: "windows"}, reason: "PodOSSelectorNodeLabelDoesNotMatch"},
		{name: "the node's operating system's label", labels: map[string]string{corev1.LabelOSStable: "linux"}},
		{name: "operating system's selector", spec: corev1.PodSpec{NodeSelector: map[string]string{corev1.LabelOSStable: "windows"}}, reason: "NodeAffinity"},
		{name: "groups policy", spec: strict, reason: "SupplementalGroupsPolicyNotSupported", message: "SupplementalGroupsPolicy=Strict is not supported in this node"},
		{name: "groups policy of a runtime that has it", spec: strict, features: &corev1.NodeFeatures{SupplementalGroupsPolicy: new(true)}},
		{name: "merged groups", spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{SupplementalGroupsPolicy: new(corev1.SupplementalGroupsPolicyMerge)}}},
		{name: "sysctl", spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.bad"}}}}, reason: "SysctlForbidden"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := AdmissionInput{
				Pod:         &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: tt.labels, Annotations: map[string]string{podinfo.SourceAnnotation: podinfo.SourceAPI}}, Spec: tt.spec},
				Node:        &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", Labels: map[string]string{"zone": "a"}}, Spec: corev1.NodeSpec{Taints: tt.taints}, Status: corev1.NodeStatus{Features: tt.features}},
				Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3"), corev1.ResourceMemory: resource.MustParse("4Gi"), "example.com/scarce": resource.MustParse("1")},
				MaxPods:     10, GOOS: "linux",
			}
			if tt.spec.SecurityContext != nil && len(tt.spec.SecurityContext.Sysctls) > 0 {
				in.Sysctls = errors.New("forbidden")
			}
			if tt.static {
				in.Pod.Annotations[podinfo.SourceAnnotation] = podinfo.SourceFile
			}
			if tt.maxPods > 0 {
				in.MaxPods = tt.maxPods
			}
			for _, spec := range tt.others {
				in.Others = append(in.Others, &corev1.Pod{Spec: spec})
			}
			got := Admit(in)
			if got == nil {
				got = &Rejection{}
			}
			if got.Reason != tt.reason || !strings.Contains(got.Message, tt.message) {
				t.Errorf("rejected with %+v, want reason %q and message %q", *got, tt.reason, tt.message)
			}
		})
	}
}
