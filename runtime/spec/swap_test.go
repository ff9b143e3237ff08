package spec

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestSwapLimit: only burstable containers with a memory request below their limit swap, each its request's part.
func TestSwapLimit(t *testing.T) {
	const swap, memory = 4 << 30, 16 << 30
	for name, tt := range map[string]struct {
		request, limit string
		priority       int32
		class          corev1.PodQOSClass
		swap           int64
		want           int64
	}{
		"burstable":            {request: "1Gi", class: corev1.PodQOSBurstable, swap: swap, want: 256 << 20},
		"with a limit":         {request: "1Gi", limit: "2Gi", class: corev1.PodQOSBurstable, swap: swap, want: 256 << 20},
		"no request":           {class: corev1.PodQOSBurstable, swap: swap},
		"request is the limit": {request: "1Gi", limit: "1Gi", class: corev1.PodQOSBurstable, swap: swap},
		"guaranteed":           {request: "1Gi", limit: "1Gi", class: corev1.PodQOSGuaranteed, swap: swap},
		"best effort":          {class: corev1.PodQOSBestEffort, swap: swap},
		"critical":             {request: "1Gi", class: corev1.PodQOSBurstable, priority: 2_000_000_000, swap: swap},
		"NoSwap":               {request: "1Gi", class: corev1.PodQOSBurstable},
	} {
		container := &corev1.Container{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}}
		if tt.request != "" {
			container.Resources.Requests[corev1.ResourceMemory] = resource.MustParse(tt.request)
		}
		if tt.limit != "" {
			container.Resources.Limits[corev1.ResourceMemory] = resource.MustParse(tt.limit)
		}
		pod := &corev1.Pod{Spec: corev1.PodSpec{Priority: &tt.priority}, Status: corev1.PodStatus{QOSClass: tt.class}}
		if got := swapLimit(pod, container, tt.swap, memory); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}

// TestInfeasible: the memory request of a container that swaps does not change while it runs.
func TestInfeasible(t *testing.T) {
	pod := func(request, cpu string, class corev1.PodQOSClass, policy corev1.ResourceResizeRestartPolicy) *corev1.Pod {
		container := corev1.Container{Name: "a", ResizePolicy: []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: policy}}}
		container.Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(request), corev1.ResourceCPU: resource.MustParse(cpu)}
		return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{container}}, Status: corev1.PodStatus{QOSClass: class}}
	}
	const burstable, running, anew = corev1.PodQOSBurstable, corev1.NotRequired, corev1.RestartContainer
	swapping := Node{Swap: 1 << 30, Kernel: Kernel{SwapLimit: true, Unified: true}}
	v1, none := swapping, swapping
	v1.Kernel.Unified, none.Swap = false, 0
	for name, tt := range map[string]struct {
		node        Node
		wanted, has *corev1.Pod
		infeasible  bool
	}{
		"memory":         {swapping, pod("2Gi", "1", burstable, running), pod("1Gi", "1", burstable, running), true},
		"CPU":            {swapping, pod("1Gi", "2", burstable, running), pod("1Gi", "1", burstable, running), false},
		"with a restart": {swapping, pod("2Gi", "1", burstable, anew), pod("1Gi", "1", burstable, anew), false},
		"guaranteed":     {swapping, pod("2Gi", "1", corev1.PodQOSGuaranteed, running), pod("1Gi", "1", corev1.PodQOSGuaranteed, running), false},
		"cgroup v1":      {v1, pod("2Gi", "1", burstable, running), pod("1Gi", "1", burstable, running), false},
		"NoSwap":         {none, pod("2Gi", "1", burstable, running), pod("1Gi", "1", burstable, running), false},
	} {
		if got := tt.node.Infeasible(tt.wanted, tt.has); (got == "In-place resize of containers with swap is not supported.") != tt.infeasible || !tt.infeasible && got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
}
