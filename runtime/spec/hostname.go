package spec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	maxHostname   = 63
	maxKernelName = 64
)

// hostname returns a pod's hostname and, with a subdomain, its domain.
//
// Upstream: pkg/kubelet/kubelet_pods.go GeneratePodHostNameAndDomain
func hostname(pod *corev1.Pod, clusterDomain string) (host, domain string, err error) {
	if override := pod.Spec.HostnameOverride; override != nil {
		if problems := validation.IsDNS1123Subdomain(*override); len(problems) > 0 {
			return "", "", fmt.Errorf("pod HostnameOverride %q is not a valid DNS subdomain: %s", *override, strings.Join(problems, ";"))
		}
		host, err = cutHostname(*override)
		return host, "", err
	}
	host = pod.Name
	if pod.Spec.Hostname != "" {
		if problems := validation.IsDNS1123Label(pod.Spec.Hostname); len(problems) > 0 {
			return "", "", fmt.Errorf("pod Hostname %q is not a valid DNS label: %s", pod.Spec.Hostname, strings.Join(problems, ";"))
		}
		host = pod.Spec.Hostname
	}
	if host, err = cutHostname(host); err != nil {
		return "", "", err
	}
	if sub := pod.Spec.Subdomain; sub != "" {
		if problems := validation.IsDNS1123Label(sub); len(problems) > 0 {
			return "", "", fmt.Errorf("pod Subdomain %q is not a valid DNS label: %s", sub, strings.Join(problems, ";"))
		}
		domain = fmt.Sprintf("%s.%s.svc.%s", sub, pod.Namespace, clusterDomain)
	}
	return host, domain, nil
}

// cutHostname shortens a pod name to what a hostname may be long.
func cutHostname(name string) (string, error) {
	if len(name) <= maxHostname {
		return name, nil
	}
	cut := strings.TrimRight(name[:maxHostname], "-.")
	if cut == "" {
		return "", fmt.Errorf("hostname %q is invalid", name)
	}
	return cut, nil
}

// kernelHostname is what the kernel is told: the hostname, or with setHostnameAsFQDN the full name if it fits.
func kernelHostname(host, domain string, fqdn *bool) (string, error) {
	if domain == "" || fqdn == nil || !*fqdn {
		return host, nil
	}
	full := host + "." + domain
	if len(full) > maxKernelName {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)",
			full, maxKernelName, len(full))
	}
	return full, nil
}
