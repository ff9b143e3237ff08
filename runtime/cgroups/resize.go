package cgroups

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// Size is the part of a pod's cgroup that changes while the pod runs. Nil is: not limited by the kubelet, leave alone.
//
// Upstream: pkg/kubelet/cm/types.go ResourceConfig
type Size struct {
	Shares *uint64 // of CPU, as cgroup v1 counts them
	Quota  *int64  // microseconds of CPU per period, -1 for no limit
	Memory *int64  // bytes, -1 for no limit
}

// PodSize is what the pod's cgroup is to allow, by its spec. It is empty when pods have no cgroups of their own.
func (m *Manager) PodSize(pod *corev1.Pod) Size {
	if !m.options.PerQOS {
		return Size{}
	}
	return m.options.podLimits(pod).Size
}

// Resources are a pod's size in the API's terms. What is too small for a cgroup, or not limited, is not in them.
func (m *Manager) Resources(s Size) (requests, limits corev1.ResourceList) {
	requests, limits = corev1.ResourceList{}, corev1.ResourceList{}
	if s.Shares != nil && *s.Shares > minShares {
		requests[corev1.ResourceCPU] = *resource.NewMilliQuantity(int64(*s.Shares*1000+sharesPerCPU-1)/sharesPerCPU, resource.DecimalSI)
	}
	if s.Quota != nil && *s.Quota > 0 {
		limits[corev1.ResourceCPU] = *resource.NewMilliQuantity(*s.Quota*1000/m.options.CPUCFSQuotaPeriod.Microseconds(), resource.DecimalSI)
	}
	if s.Memory != nil && *s.Memory > 0 {
		limits[corev1.ResourceMemory] = *resource.NewQuantity(*s.Memory, resource.BinarySI)
	}
	return requests, limits
}

// ReadPodSize reads what the pod's cgroup allows now.
func (m *Manager) ReadPodSize(pod *corev1.Pod) (Size, error) {
	if !m.options.PerQOS {
		return Size{}, nil
	}
	files := [3][2]string{{"cpu", "cpu.shares"}, {"cpu", "cpu.cfs_quota_us"}, {"memory", "memory.limit_in_bytes"}}
	if m.unified {
		files = [3][2]string{{"", "cpu.weight"}, {"", "cpu.max"}, {"", "memory.max"}}
	}
	var amounts [3]int64
	for i, file := range files {
		var err error
		if amounts[i], err = m.readNumber(pod, file[0], file[1]); err != nil {
			return Size{}, err
		}
	}
	shares := uint64(amounts[0])
	if m.unified {
		shares = weightToShares(shares)
	}
	return Size{Shares: &shares, Quota: &amounts[1], Memory: &amounts[2]}, nil
}

// PodMemoryUsage is how much memory the processes of the pod have, in bytes.
func (m *Manager) PodMemoryUsage(pod *corev1.Pod) (int64, error) {
	if m.unified {
		return m.readNumber(pod, "", "memory.current")
	}
	return m.readNumber(pod, "memory", "memory.usage_in_bytes")
}

// readNumber reads the first number of a file of the pod's cgroup.
func (m *Manager) readNumber(pod *corev1.Pod, controller, file string) (int64, error) {
	path := filepath.Join(m.mounts[controller], m.path(m.podName(pod)), file)
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read the cgroup of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	n, err := parseAmount(string(data))
	if err != nil {
		return 0, fmt.Errorf("read the cgroup of pod %s/%s: %s: %w", pod.Namespace, pod.Name, file, err)
	}
	return n, nil
}

// parseAmount reads the first word of a cgroup file; "max", and the huge numbers that mean it on v1, are -1.
func parseAmount(text string) (int64, error) {
	word, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	if word == "max" {
		return -1, nil
	}
	n, err := strconv.ParseInt(word, 10, 64)
	const page = 1 << 16 // the largest page that a machine has
	if err == nil && n > math.MaxInt64-page {
		n = -1
	}
	return n, err
}

// weightToShares is sharesToWeight backwards, as near as it can be.
func weightToShares(weight uint64) uint64 {
	weight = min(max(weight, 1), 10000)
	return minShares + ((weight-1)*(maxShares-minShares)+9998)/9999
}

// ResizePod sets what is not nil of the size on the pod's cgroup.
func (m *Manager) ResizePod(pod *corev1.Pod, s Size) error {
	if !m.options.PerQOS || s == (Size{}) {
		return nil
	}
	if err := m.apply(m.podName(pod), limits{Size: s}); err != nil {
		return fmt.Errorf("resize cgroup of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

func (s Size) equal(other Size) bool {
	return ptr.Equal(s.Shares, other.Shares) && ptr.Equal(s.Quota, other.Quota) && ptr.Equal(s.Memory, other.Memory)
}
