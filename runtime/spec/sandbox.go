package spec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	podinfo "minikubelet/config/pod"
)

// Sandbox is what has to be looked up before a pod's sandbox can be described.
type Sandbox struct {
	Attempt      uint32
	CgroupParent string
	Users        *runtimeapi.UserNamespace
	HostDNS      *runtimeapi.DNSConfig // the node's resolv.conf, nil if it has none for pods
}

// SandboxConfig describes the pod's sandbox. The same description goes along with every container, so it does not depend
// on when it is made.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_sandbox.go generatePodSandboxConfig
func (n *Node) SandboxConfig(pod *corev1.Pod, in Sandbox) (*runtimeapi.PodSandboxConfig, []Warning, error) {
	dns, warnings := n.DNS(pod, in.HostDNS)
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: in.Attempt},
		Labels:       podLabels(pod),
		Annotations:  pod.Annotations,
		LogDirectory: PodLogsDirectory(n.PodLogsDir, pod.Namespace, pod.Name, pod.UID),
		DnsConfig:    dns,
		PortMappings: portMappings(pod),
	}
	if !pod.Spec.HostNetwork {
		host, domain, err := hostname(pod, n.ClusterDomain)
		if err != nil {
			return nil, nil, err
		}
		if config.Hostname, err = kernelHostname(host, domain, pod.Spec.SetHostnameAsFQDN); err != nil {
			return nil, nil, err
		}
	}
	var err error
	config.Linux, err = n.sandboxLinux(pod, in)
	return config, warnings, err
}

func (n *Node) sandboxLinux(pod *corev1.Pod, in Sandbox) (_ *runtimeapi.LinuxPodSandboxConfig, err error) {
	out := &runtimeapi.LinuxPodSandboxConfig{
		CgroupParent: in.CgroupParent,
		Sysctls:      map[string]string{},
		SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			Privileged:       anyPrivileged(pod),
			NamespaceOptions: namespaces(pod, in.Users),
			// The sandbox's own process needs nothing that the default profile forbids, whatever the containers need.
			Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
		},
	}
	out.Resources, out.Overhead = n.SandboxResources(pod)
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return out, nil
	}
	if err := CheckSysctls(pod, n.AllowedUnsafeSysctls); err != nil {
		return nil, err
	}
	for _, s := range sc.Sysctls {
		out.Sysctls[sysctl.NormalizeName(s.Name)] = s.Value
	}
	security := out.SecurityContext
	security.RunAsUser, security.RunAsGroup = int64Value(sc.RunAsUser), int64Value(sc.RunAsGroup)
	security.SelinuxOptions = selinuxOptions(sc.SELinuxOptions)
	security.SupplementalGroups, security.SupplementalGroupsPolicy, err = supplementalGroups(pod)
	return out, err
}

func anyPrivileged(pod *corev1.Pod) bool {
	for container := range podinfo.AllContainers(pod) {
		if sc := container.SecurityContext; sc != nil && ptr.Deref(sc.Privileged, false) {
			return true
		}
	}
	return false
}

// portMappings lists the regular containers' ports; a name, or without one the same port, counts once per container.
func portMappings(pod *corev1.Pod) []*runtimeapi.PortMapping {
	var out []*runtimeapi.PortMapping
	for i := range pod.Spec.Containers {
		seen := map[string]bool{}
		for _, port := range pod.Spec.Containers[i].Ports {
			key := port.Name
			if key == "" {
				key = fmt.Sprintf("%s/%s/%d/%d", port.HostIP, port.Protocol, port.ContainerPort, port.HostPort)
			}
			if seen[key] {
				continue
			}
			seen[key] = true
			out = append(out, &runtimeapi.PortMapping{
				HostIp: port.HostIP, HostPort: port.HostPort, ContainerPort: port.ContainerPort,
				Protocol: runtimeapi.Protocol(runtimeapi.Protocol_value[string(port.Protocol)]), // TCP is 0
			})
		}
	}
	return out
}
