package node

import (
	"net"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// part: cloud provider external. The cluster's cloud controller initialises the node: it takes the taint away that the
// node registers with, writes the node's addresses and, unless --provider-id is given, its provider ID.

// Names that the kubelet and the cloud controller share.
//
// Upstream: k8s.io/cloud-provider/api/well_known_taints.go and well_known_annotations.go.
const (
	uninitialized  = "node.cloudprovider.kubernetes.io/uninitialized"
	providedNodeIP = "alpha.kubernetes.io/provided-node-ip"
)

// tellCloud writes --node-ip into the annotation in which the cloud controller looks for it, and removes one that no
// longer holds.
func (n *Node) tellCloud(node *corev1.Node) {
	given := slices.DeleteFunc(slices.Clone(n.opts.Settings.NodeIPs), net.IP.IsUnspecified)
	if !n.opts.Settings.ExternalCloud || len(given) == 0 {
		delete(node.Annotations, providedNodeIP)
		return
	}
	if node.Annotations == nil {
		node.Annotations = map[string]string{}
	}
	var ips []string
	for _, ip := range given {
		ips = append(ips, ip.String())
	}
	node.Annotations[providedNodeIP] = strings.Join(ips, ",")
}

// awaitsCloud tells whether the cloud controller alone knows the node's addresses.
func (n *Node) awaitsCloud() bool {
	return n.opts.Settings.ExternalCloud && len(n.opts.Settings.NodeIPs) == 0
}

// statusAddresses are the addresses of the status. With an external cloud provider those that are there stay.
func (n *Node) statusAddresses(have []corev1.NodeAddress) (addresses []corev1.NodeAddress) {
	if n.opts.Settings.ExternalCloud && len(have) > 0 {
		return have
	}
	if !n.awaitsCloud() {
		for _, ip := range n.addresses() {
			addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
		}
	}
	return append(addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: n.opts.Settings.NodeName})
}

// HostIPs are the addresses in a node's status that its pods share: the first internal one, or external if there is none
// of these, and the first of the other family.
func HostIPs(node *corev1.Node) (ips []string) {
	var first net.IP
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range node.Status.Addresses {
			ip := net.ParseIP(a.Address)
			switch {
			case a.Type != kind || ip == nil:
			case first == nil:
				first, ips = ip, []string{ip.String()}
			case (ip.To4() == nil) != (first.To4() == nil):
				return append(ips, ip.String())
			}
		}
	}
	return ips
}
