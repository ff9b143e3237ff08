package cgroups

import (
	"fmt"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	podinfo "minikubelet/config/pod"
)

const (
	kubepods    = "kubepods"
	burstable   = "burstable"
	bestEffort  = "besteffort"
	podPrefix   = "pod"
	sliceSuffix = ".slice"
)

// name is a cgroup independent of the driver: [kubepods burstable pod1234-56].
type name []string

func parseName(root string) name {
	var out name
	for part := range strings.SplitSeq(root, "/") {
		if part != "" {
			out = append(out, part)
		}
	}
	return out
}

func (n name) child(part string) name { return append(append(name{}, n...), part) }

// cgroupfs is /kubepods/burstable/pod1234-56.
func (n name) cgroupfs() string { return "/" + path.Join(n...) }

// systemd is /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234_56.slice: a dash is the
// hierarchy there, so the dashes of a part become underscores.
func (n name) systemd() string {
	out, prefix := "/", ""
	for _, part := range n {
		prefix += strings.ReplaceAll(part, "-", "_")
		out = path.Join(out, prefix+sliceSuffix)
		prefix += "-"
	}
	return out
}

// uidOfDir is the reverse for one directory of a tier: "pod1234-56" or "kubepods-burstable-pod1234_56.slice".
func uidOfDir(dir string) (types.UID, bool) {
	if base, isSlice := strings.CutSuffix(dir, sliceSuffix); isSlice {
		parts := strings.Split(base, "-")
		dir = strings.ReplaceAll(parts[len(parts)-1], "_", "-")
	}
	uid, ok := strings.CutPrefix(dir, podPrefix)
	return types.UID(uid), ok && uid != ""
}

// checkUID keeps a UID, which becomes a directory name, from naming anything else. A "_" would come back from systemd as "-".
func checkUID(uid types.UID) error {
	if strings.Contains(string(uid), "_") {
		return fmt.Errorf("pod UID %q has a _, which cannot name a cgroup", uid)
	}
	return podinfo.CheckUID(uid)
}

// tiers lists the parents a pod's cgroup can have.
func (m *Manager) tiers() []name {
	return []name{m.root, m.root.child(burstable), m.root.child(bestEffort)}
}

func (m *Manager) podName(pod *corev1.Pod) name {
	parent := m.root
	switch podinfo.QOSClass(pod) {
	case corev1.PodQOSBurstable:
		parent = parent.child(burstable)
	case corev1.PodQOSBestEffort:
		parent = parent.child(bestEffort)
	}
	return parent.child(podPrefix + string(pod.UID))
}

// PodsCgroup is the path of the cgroup of all pods in every hierarchy, "" when pods have none of their own
// or the driver is not known yet.
func (m *Manager) PodsCgroup() string {
	if !m.options.PerQOS || m.unknown.Load() {
		return ""
	}
	return m.path(m.root)
}

// PodCgroup is the path of a pod's cgroup in every hierarchy, "" when pods have none of their own or the driver is not
// known yet.
func (m *Manager) PodCgroup(pod *corev1.Pod) string {
	if !m.options.PerQOS || m.unknown.Load() || checkUID(pod.UID) != nil {
		return ""
	}
	return m.path(m.podName(pod))
}

func (m *Manager) path(n name) string {
	if m.systemd.Load() {
		return n.systemd()
	}
	return n.cgroupfs()
}
