package spec

import (
	"bytes"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	hostsHeader     = "# Kubernetes-managed hosts file.\n"
	hostsHeaderHost = "# Kubernetes-managed hosts file (host network).\n"
	hostsFixed      = "127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\n" +
		"fe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\n" +
		"fe00::2\tip6-allrouters\n"
)

// HostsFile is the content of the pod's /etc/hosts. node is the node's own file, which pods in its network get.
func (n *Node) HostsFile(pod *corev1.Pod, podIPs []string, node []byte) ([]byte, error) {
	host, domain, err := hostname(pod, n.ClusterDomain)
	if err != nil {
		return nil, err
	}
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
	return out.Bytes(), nil
}
