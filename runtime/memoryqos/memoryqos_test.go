package memoryqos

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestMemoryQoS(t *testing.T) {
	plain := Settings{Factor: 0.9, Allocatable: 1000 << 20}
	tiered := Settings{Factor: 0.5, Tiered: true, Allocatable: 1000 << 20}
	for _, tc := range []struct {
		name           string
		qos            Settings
		class          corev1.PodQOSClass
		request, limit int64
		want           map[string]string
	}{
		{"guaranteed", plain, corev1.PodQOSGuaranteed, 10 << 20, 10 << 20, map[string]string{"memory.min": "0", "memory.low": "0"}},
		{"between request and limit", plain, corev1.PodQOSBurstable, 10 << 20, 20 << 20, map[string]string{"memory.min": "0", "memory.low": "0", "memory.high": fmt.Sprint(19 << 20)}},
		{"no limit", plain, corev1.PodQOSBurstable, 0, 0, map[string]string{"memory.min": "0", "memory.low": "0"}},
		{"request alone", tiered, corev1.PodQOSBurstable, 100 << 20, 0, map[string]string{"memory.low": fmt.Sprint(100 << 20), "memory.high": fmt.Sprint(550 << 20)}},
		{"limit alone, whole pages", plain, corev1.PodQOSBurstable, 0, 5 << 12, map[string]string{"memory.min": "0", "memory.low": "0", "memory.high": fmt.Sprint(4 << 12)}},
		{"less than a page above the request", tiered, corev1.PodQOSBurstable, 4096, 8191, map[string]string{"memory.low": "4096"}},
		{"guaranteed, reserved", tiered, corev1.PodQOSGuaranteed, 4096, 4096, map[string]string{"memory.min": "4096"}},
		{"nothing known of the node", Settings{Factor: 0.9}, corev1.PodQOSBurstable, 4096, 0, map[string]string{"memory.min": "0", "memory.low": "0"}},
	} {
		if got := tc.qos.Unified(tc.class, tc.request, tc.limit); fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
