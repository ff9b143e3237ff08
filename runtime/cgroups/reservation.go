package cgroups

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Reservation is a part of the machine that is kept for what is no pod, and the existing cgroup that gets no more than it.
type Reservation struct {
	Field     string // the setting that names the cgroup, for errors
	Cgroup    string // kubeReservedCgroup or systemReservedCgroup
	Resources corev1.ResourceList
	// CPUOnly leaves memory and processes unlimited, which are taken away by ending processes.
	CPUOnly bool
}

// enforce limits the cgroup of a reservation, which must be there: the kubelet makes no cgroups for what it does not start.
func (m *Manager) enforce(r Reservation) error {
	n := m.ofOthers(r.Cgroup)
	for _, controller := range m.controllers() {
		if _, err := os.Stat(filepath.Join(m.mounts[controller], m.path(n))); err != nil {
			return fmt.Errorf("%s: controller %q: %w", r.Field, controller, err)
		}
	}
	l := limitsOf(r.Resources)
	l.huge = nil // no reservation names any, so there is no limit
	if r.CPUOnly {
		l = limits{Size: Size{Shares: l.Shares}}
	}
	if err := m.apply(n, l); err != nil {
		return fmt.Errorf("%s: %w", r.Field, err)
	}
	return nil
}

// ofOthers parses the name of a cgroup that is not the kubelet's. With the systemd driver that is a slice, such as
// /podruntime.slice, whose dashes are the hierarchy.
func (m *Manager) ofOthers(cgroup string) name {
	if !m.systemd.Load() {
		return parseName(cgroup)
	}
	var n name
	for part := range strings.SplitSeq(strings.TrimSuffix(path.Base(cgroup), sliceSuffix), "-") {
		n = append(n, strings.ReplaceAll(part, "_", "-"))
	}
	return n
}
