package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	maxHostname     = 63
	maxKernelName   = 64
	etcHosts        = "/etc/hosts"
	hostsHeader     = "# Kubernetes-managed hosts file.\n"
	hostsHeaderHost = "# Kubernetes-managed hosts file (host network).\n"
	hostsFixed      = "127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\n" +
		"fe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\n" +
		"fe00::2\tip6-allrouters\n"
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
//
// Upstream: pkg/kubelet/util/util.go GetNodenameForKernel
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

// hostsContent is the pod's /etc/hosts. node is the node's own file, used for host network pods.
//
// Upstream: pkg/kubelet/kubelet_pods.go managedHostsFileContent, nodeHostsFileContent
func hostsContent(pod *corev1.Pod, podIPs []string, host, domain string, node []byte) []byte {
	var out bytes.Buffer
	if pod.Spec.HostNetwork {
		out.WriteString(hostsHeaderHost)
		out.Write(node)
	} else {
		out.WriteString(hostsHeader + hostsFixed)
		for _, ip := range podIPs {
			if domain != "" {
				fmt.Fprintf(&out, "%s\t%s.%s\t%s\n", ip, host, domain, host)
			} else {
				fmt.Fprintf(&out, "%s\t%s\n", ip, host)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		out.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range pod.Spec.HostAliases {
			fmt.Fprintf(&out, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	return out.Bytes()
}

// hostsMount writes the pod's /etc/hosts and returns its mount; nil for a container that mounts its own and for a
// pod without an address. The file is written in place: other containers of the pod have this very file mounted.
func (r *Runtime) hostsMount(pod *corev1.Pod, container *corev1.Container, podIPs []string) (*runtimeapi.Mount, error) {
	if len(podIPs) == 0 && !pod.Spec.HostNetwork {
		return nil, nil
	}
	for _, mount := range container.VolumeMounts {
		if filepath.Clean(mount.MountPath) == etcHosts {
			return nil, nil
		}
	}
	host, domain, err := hostname(pod, r.ClusterDomain)
	if err != nil {
		return nil, err
	}
	var node []byte
	if pod.Spec.HostNetwork {
		if node, err = os.ReadFile(etcHosts); err != nil {
			return nil, fmt.Errorf("read the node's hosts file: %w", err)
		}
	}
	file := filepath.Join(r.podDir(pod), "etc-hosts")
	content := hostsContent(pod, podIPs, host, domain, node)
	old, err := readShared(file, len(content)+1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the pod's hosts file: %w", err)
	}
	if err != nil || !bytes.Equal(old, content) {
		if err := writeShared(file, content, 0o644); err != nil {
			return nil, fmt.Errorf("write the pod's hosts file: %w", err)
		}
	}
	return &runtimeapi.Mount{HostPath: file, ContainerPath: etcHosts, SelinuxRelabel: selinuxEnabled()}, nil
}

func (r *Runtime) podDir(pod *corev1.Pod) string {
	return filepath.Join(r.RootDir, "pods", string(pod.UID))
}

// readShared reads so much of a file that containers may have written to, and nothing that they put in its place.
func readShared(file string, limit int) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, int64(limit)))
}

// writeShared writes a file that containers read or write, with exactly this mode whatever the umask.
func writeShared(file string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	if err := os.WriteFile(file, content, mode); err != nil {
		return err
	}
	return os.Chmod(file, mode)
}

// selinuxEnabled reports whether the kernel labels files; without it a relabel request is noise.
func selinuxEnabled() bool {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	return err == nil
}
