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
