package spec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"
)

// safeSysctls belong to the pod's own namespaces and affect no other pod.
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
