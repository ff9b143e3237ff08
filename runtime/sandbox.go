package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// createPodSandbox makes the pod's sandbox and returns its status, addresses included.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_sandbox.go createPodSandbox
func (r *Runtime) createPodSandbox(ctx context.Context, pod *corev1.Pod, config *runtimeapi.PodSandboxConfig) (_ *runtimeapi.PodSandboxStatus, err error) {
	ctx, end := cri.Step(ctx, "createPodSandbox", pod)
	defer func() { end(err) }()
	logger := klog.FromContext(ctx).WithValues("pod", klog.KObj(pod), "podUID", pod.UID)

	// Step 1: the log directory.
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return nil, fmt.Errorf("failed to create log directory for pod %q: %w", podName(pod), err)
	}

	// Step 2: the runtime handler of the pod's runtime class.
	handler, err := r.Classes.LookupRuntimeHandler(pod.Spec.RuntimeClassName)
	if err != nil {
		return nil, fmt.Errorf("failed to create sandbox for pod %q: %w", podName(pod), err)
	}

	// Step 3: the pod's cgroup, which the sandbox's and the containers' are made in.
	if err := r.Cgroups.EnsurePod(pod); err != nil {
		r.podEvent(pod, corev1.EventTypeWarning, eventFailedPodContainer, "unable to ensure pod container exists: %v", err)
		return nil, err
	}

	// Step 4: the sandbox.
	made, err := r.CRI.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		r.note(pod)
		return nil, err
	}
	logger.V(4).Info("Created pod sandbox", "sandboxID", made.GetPodSandboxId(), "attempt", config.Metadata.Attempt)

	// Step 5: its addresses, which the containers' environment and /etc/hosts need.
	got, err := r.CRI.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: made.GetPodSandboxId()})
	if err == nil && got.GetStatus() == nil {
		err = errors.New("pod sandbox status is nil")
	}
	if err != nil {
		r.note(pod)
		r.podEvent(pod, corev1.EventTypeWarning, eventFailedSandboxStatus, "Unable to get pod sandbox status: %v", err)
		return nil, &statusError{err}
	}
	return got.GetStatus(), nil
}

// statusError marks a failure that has had its event.
type statusError struct{ error }

func (e *statusError) Unwrap() error { return e.error }

// note remembers that a call for the pod failed: it may have done its work all the same, so the next sync looks before
// it acts.
func (r *Runtime) note(pod *corev1.Pod) {
	r.uncertain.Store(pod.UID, true)
	r.Cache.Acted(pod.UID)
}

// generatePodSandboxConfig describes the pod's sandbox. The same description goes along with every container, so it
// must not depend on when it is made.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_sandbox.go generatePodSandboxConfig
func (r *Runtime) generatePodSandboxConfig(pod *corev1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	dns, err := r.dnsConfig(pod)
	if err != nil {
		return nil, err
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		Labels:       podLabels(pod),
		Annotations:  pod.Annotations,
		LogDirectory: PodLogsDirectory(r.PodLogsDir, pod.Namespace, pod.Name, pod.UID),
		DnsConfig:    dns,
		PortMappings: portMappings(pod),
	}
	if !pod.Spec.HostNetwork {
		host, domain, err := hostname(pod, r.ClusterDomain)
		if err != nil {
			return nil, err
		}
		if config.Hostname, err = kernelHostname(host, domain, pod.Spec.SetHostnameAsFQDN); err != nil {
			return nil, err
		}
	}
	if config.Linux, err = r.sandboxLinux(pod); err != nil {
		return nil, err
	}
	return config, nil
}

func (r *Runtime) sandboxLinux(pod *corev1.Pod) (*runtimeapi.LinuxPodSandboxConfig, error) {
	shared, err := r.namespaces(pod)
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.LinuxPodSandboxConfig{
		CgroupParent: r.Cgroups.PodParent(pod),
		Sysctls:      map[string]string{},
		SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			Privileged:       anyPrivileged(pod),
			NamespaceOptions: shared,
			// The sandbox's own process needs nothing that the default profile forbids, whatever the containers need.
			Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
		},
	}
	out.Resources, out.Overhead = r.sandboxResources(pod)
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return out, nil
	}
	for _, s := range sc.Sysctls {
		if err := checkSysctl(pod, s.Name, r.AllowedUnsafeSysctls); err != nil {
			return nil, fmt.Errorf("forbidden sysctl: %w", err)
		}
		out.Sysctls[sysctl.NormalizeName(s.Name)] = s.Value
	}
	of := out.SecurityContext
	of.RunAsUser, of.RunAsGroup = int64Value(sc.RunAsUser), int64Value(sc.RunAsGroup)
	of.SelinuxOptions = selinuxOptions(sc.SELinuxOptions)
	of.SupplementalGroups, of.SupplementalGroupsPolicy, err = supplementalGroups(pod)
	return out, err
}

func anyPrivileged(pod *corev1.Pod) bool {
	for container := range podinfo.AllContainers(pod) {
		if sc := container.SecurityContext; sc != nil && sc.Privileged != nil && *sc.Privileged {
			return true
		}
	}
	return false
}

// portMappings lists the regular containers' ports; a name, or without one the same port, counts once per container.
//
// Upstream: pkg/kubelet/container/helpers.go MakePortMappings
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

// safeSysctls belong to the pod's own namespaces and affect no other pod.
//
// Upstream: pkg/kubelet/sysctl/safe_sysctls.go
var safeSysctls = []string{
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range",
	"net.ipv4.tcp_syncookies",
	"net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports",
	"net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_rmem",
	"net.ipv4.tcp_wmem",
}

// CheckSysctls returns upstream's admission message (reason SysctlForbidden) for a pod that asks for a kernel
// parameter that is neither safe nor allowed, or that belongs to a namespace the pod shares with the node.
//
// Upstream: pkg/kubelet/sysctl/allowlist.go Admit
func CheckSysctls(pod *corev1.Pod, allowedUnsafe []string) error {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		if err := checkSysctl(pod, s.Name, allowedUnsafe); err != nil {
			return fmt.Errorf("forbidden sysctl: %w", err)
		}
	}
	return nil
}

func checkSysctl(pod *corev1.Pod, name string, allowedUnsafe []string) error {
	name = sysctl.NormalizeName(name)
	allowed := slices.Contains(safeSysctls, name) || slices.ContainsFunc(allowedUnsafe, func(pattern string) bool {
		prefix, isPrefix := strings.CutSuffix(sysctl.NormalizeName(pattern), "*")
		return name == prefix || isPrefix && strings.HasPrefix(name, prefix)
	})
	switch {
	case !allowed:
		return fmt.Errorf("%q not allowlisted", name)
	case pod.Spec.HostNetwork && strings.HasPrefix(name, "net."):
		return fmt.Errorf("%q not allowed with host net enabled", name)
	case pod.Spec.HostIPC && (strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") ||
		strings.HasPrefix(name, "fs.mqueue.") || name == "kernel.sem"):
		return fmt.Errorf("%q not allowed with host ipc enabled", name)
	}
	return nil
}
