// Package spec says what the runtime is told of pods: the configuration of a sandbox and of a container, with their
// security contexts, resources, DNS and labels. All of it is pure: what has to be looked up first, a file, the user of an
// image or the facts of the machine, is an argument.
package spec

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/runtime/memoryqos"
)

// Node is what is the same for all pods of the node.
type Node struct {
	PodLogsDir string // podLogsDir
	SeccompDir string // where profiles of type Localhost are

	ClusterDNS    []string // clusterDNS
	ClusterDomain string   // clusterDomain

	SeccompDefault       bool     // seccompDefault: RuntimeDefault where a pod names no profile
	AllowedUnsafeSysctls []string // allowedUnsafeSysctls: names, or prefixes that end in *
	CPUCFSQuota          bool     // cpuCFSQuota
	CPUCFSQuotaPeriod    time.Duration
	Swap                 int64               // bytes of swap that burstable containers share, LimitedSwap; 0 for NoSwap
	SingleProcessOOMKill *bool               // singleProcessOOMKill; nil means false on cgroup v2, true on v1
	MemoryQoS            *memoryqos.Settings // part: memory QoS, runtime/memoryqos

	Kernel Kernel
}

// Kernel is what the kernel of the node can do and has.
type Kernel struct {
	Unified         bool     // cgroup v2
	SwapLimit       bool     // cgroups limit swap
	SELinux         bool     // files have labels, and mounts are relabelled
	Memory          int64    // bytes
	HugePageSizes   []string // as the kernel names them: "2MB"
	ThermalThrottle []string // files that tell when the machine is hot, and so what other containers do
}

// Warning is an event for the pod: its configuration is not quite what it asks for.
type Warning struct{ Reason, Message string }

// Reasons of warnings.
const (
	ReasonDNSConfigForming  = "DNSConfigForming"
	ReasonMissingClusterDNS = "MissingClusterDNS"
)

// ImageUser is the user that an image runs as: a number, or a name that only the image can resolve.
type ImageUser struct {
	UID  *int64
	Name string
}

// ReferenceName names a pod in messages as upstream's do: name_namespace(uid).
func ReferenceName(pod *corev1.Pod) string {
	return pod.Name + "_" + pod.Namespace + "(" + string(pod.UID) + ")"
}
