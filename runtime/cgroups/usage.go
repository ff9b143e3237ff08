package cgroups

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// PodUsage reads what a pod uses: memory that the kernel could not take back at once, and processes.
func (m *Manager) PodUsage(pod *corev1.Pod) (workingSet, processes int64, err error) {
	if m.unknown.Load() {
		return 0, 0, errDriver
	}
	n := m.podName(pod)
	if workingSet, err = m.workingSet(n); err != nil {
		return 0, 0, err
	}
	processes, err = m.number("pids", n, "pids.current")
	return workingSet, processes, err
}

// PodsMemory reads what all pods together use of memory and may use; a limit of 0 is none.
func (m *Manager) PodsMemory() (workingSet, limit int64, err error) {
	if m.unknown.Load() {
		return 0, 0, errDriver
	}
	if workingSet, err = m.workingSet(m.root); err != nil {
		return 0, 0, err
	}
	file := "memory.limit_in_bytes"
	if m.unified {
		file = "memory.max"
	}
	if limit, err = m.number("memory", m.root, file); err != nil {
		return 0, 0, err
	}
	if limit >= math.MaxInt64>>12<<12 { // v1 writes no limit so
		limit = 0
	}
	return workingSet, limit, nil
}

// workingSet is the usage without the part of the page cache that was not used lately, as cAdvisor has it.
func (m *Manager) workingSet(n name) (int64, error) {
	usage, inactive := "memory.usage_in_bytes", "total_inactive_file"
	if m.unified {
		usage, inactive = "memory.current", "inactive_file"
	}
	used, err := m.number("memory", n, usage)
	if err != nil {
		return 0, err
	}
	stat, err := os.ReadFile(m.file("memory", n, "memory.stat"))
	if err != nil {
		return 0, fmt.Errorf("read the memory of cgroup %s: %w", m.path(n), err)
	}
	for line := range strings.Lines(string(stat)) {
		key, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key != inactive {
			continue
		}
		cache, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the memory of cgroup %s: %w", m.path(n), err)
		}
		return max(used-cache, 0), nil
	}
	return used, nil
}

// number reads a file of one number; max, which is no limit, is 0.
func (m *Manager) number(controller string, n name, file string) (int64, error) {
	data, err := os.ReadFile(m.file(controller, n, file))
	if err != nil {
		return 0, fmt.Errorf("read %s of cgroup %s: %w", file, m.path(n), err)
	}
	text := strings.TrimSpace(string(data))
	if text == "max" {
		return 0, nil
	}
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s of cgroup %s: %w", file, m.path(n), err)
	}
	return value, nil
}

func (m *Manager) file(controller string, n name, file string) string {
	root := unifiedRoot
	if !m.unified {
		root = m.mounts[controller]
	}
	return filepath.Join(root, m.path(n), file)
}
