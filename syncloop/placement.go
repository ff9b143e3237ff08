package syncloop

import (
	"cmp"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingcorev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	podinfo "minikubelet/config/pod"
)

// checkPlacement compares node selector and required affinity with the node's labels. Those of a static pod do not count: it
// is in a manifest of this very node.
func checkPlacement(in AdmissionInput) *Rejection {
	if name := in.Pod.Spec.NodeName; name != "" && name != in.Node.Name {
		return predicate("NodeName", "node didn't match the requested node name")
	}
	if podinfo.IsStatic(in.Pod) {
		return nil
	}
	match, err := nodeaffinity.GetRequiredNodeAffinity(in.Pod).Match(in.Node)
	if err != nil || !match {
		return predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
	}
	return nil
}

// checkGroupsPolicy refuses a pod that wants no groups but its own where the runtime would add those of the image.
func checkGroupsPolicy(in AdmissionInput) *Rejection {
	sc, features := in.Pod.Spec.SecurityContext, in.Node.Status.Features
	if sc == nil || ptr.Deref(sc.SupplementalGroupsPolicy, "") != corev1.SupplementalGroupsPolicyStrict ||
		features != nil && ptr.Deref(features.SupplementalGroupsPolicy, false) {
		return nil
	}
	return &Rejection{"SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node"}
}

func predicate(name, description string) *Rejection {
	return &Rejection{name, fmt.Sprintf("Predicate %s failed: %s", name, description)}
}

// checkPorts looks for a host port that another pod has.
func checkPorts(in AdmissionInput) *Rejection {
	taken := map[hostPort]bool{}
	for _, other := range in.Others {
		for _, port := range hostPorts(other) {
			taken[port] = true
		}
	}
	for _, port := range hostPorts(in.Pod) {
		for other := range taken {
			if port.conflicts(other) {
				return predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports")
			}
		}
	}
	return nil
}

type hostPort struct {
	ip, protocol string
	port         int32
}

func (p hostPort) conflicts(o hostPort) bool {
	return p.port == o.port && p.protocol == o.protocol && (p.ip == o.ip || p.ip == anyIP || o.ip == anyIP)
}

const anyIP = "0.0.0.0"

func hostPorts(pod *corev1.Pod) []hostPort {
	var ports []hostPort
	for container := range podinfo.LastingContainers(pod) {
		ports = appendPorts(ports, container)
	}
	return ports
}

func appendPorts(ports []hostPort, c *corev1.Container) []hostPort {
	for _, p := range c.Ports {
		if p.HostPort > 0 {
			ip, protocol := cmp.Or(p.HostIP, anyIP), cmp.Or(string(p.Protocol), string(corev1.ProtocolTCP))
			ports = append(ports, hostPort{strings.TrimSpace(ip), protocol, p.HostPort})
		}
	}
	return ports
}

// checkTaints looks for a NoExecute taint that a pod from the apiserver does not tolerate. The static ones of a file
// tolerate all.
func checkTaints(in AdmissionInput) *Rejection {
	if podinfo.IsStatic(in.Pod) {
		return nil
	}
	_, untolerated := schedulingcorev1.FindMatchingUntoleratedTaint(klog.Background(), in.Node.Spec.Taints, in.Pod.Spec.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoExecute
	}, false)
	if untolerated {
		return predicate("TaintToleration", "node(s) had untolerated taint(s)")
	}
	return nil
}
