package main

import (
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
)

// zone answers for the names of services, as the specification of DNS for Kubernetes says. There are no other names
// in a stack, which reaches no other network.
type zone struct {
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
}

const domain = "svc.cluster.local."

// host is a name with an address, and the ports that SRV records give of it.
type host struct {
	name    string
	address netip.Addr
	ports   []port
}

type port struct {
	name, protocol string
	number         uint16
}

// answer is the records of a question. NXDOMAIN makes resolvers try the next search domain; a name without records
// of the type that is asked for is none of those.
func (z zone) answer(q dnsmessage.Question) ([]dnsmessage.Resource, dnsmessage.RCode) {
	name := strings.ToLower(q.Name.String())
	if strings.HasSuffix(name, ".in-addr.arpa.") {
		return z.reverse(q, name)
	}
	path, found := strings.CutSuffix(name, "."+domain)
	if !found {
		if strings.HasSuffix("."+domain, "."+name) {
			return nil, dnsmessage.RCodeSuccess
		}
		return nil, dnsmessage.RCodeNameError
	}
	parts := strings.Split(path, ".")
	slices.Reverse(parts) // namespace, service, then what is inside
	if len(parts) == 1 {
		return nil, dnsmessage.RCodeSuccess
	}
	service, err := z.services.Services(parts[0]).Get(parts[1])
	if err != nil {
		return nil, dnsmessage.RCodeNameError
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		if target, err := dnsmessage.NewName(service.Spec.ExternalName + "."); err == nil && len(parts) == 2 {
			return []dnsmessage.Resource{record(q, &dnsmessage.CNAMEResource{CNAME: target})}, dnsmessage.RCodeSuccess
		}
		return nil, dnsmessage.RCodeNameError
	}
	return records(q, z.hosts(service), parts[2:], parts[1]+"."+parts[0]+"."+domain)
}

// records are those of a service's hosts that the rest of the name means: none, a host's, or a port and its protocol.
func records(q dnsmessage.Question, hosts []host, rest []string, suffix string) ([]dnsmessage.Resource, dnsmessage.RCode) {
	var found []dnsmessage.Resource
	exists := len(rest) == 0
	for _, h := range hosts {
		switch {
		case len(rest) == 0 || len(rest) == 1 && rest[0] == h.name:
			exists = true
			if q.Type == dnsmessage.TypeA {
				found = append(found, record(q, &dnsmessage.AResource{A: h.address.As4()}))
			}
		case len(rest) == 2:
			for _, p := range h.ports {
				target, err := dnsmessage.NewName(strings.TrimPrefix(h.name+"."+suffix, "."))
				if err != nil || rest[1] != "_"+p.name || rest[0] != "_"+p.protocol {
					continue
				}
				exists = true
				if q.Type == dnsmessage.TypeSRV {
					found = append(found, record(q, &dnsmessage.SRVResource{Weight: 100, Port: p.number, Target: target}))
				}
			}
		}
	}
	if !exists {
		return nil, dnsmessage.RCodeNameError
	}
	return found, dnsmessage.RCodeSuccess
}

// hosts are a service's own address, or those of its endpoints if it has none.
func (z zone) hosts(service *corev1.Service) []host {
	if address, err := netip.ParseAddr(service.Spec.ClusterIP); err == nil && address.Is4() {
		h := host{address: address}
		for _, p := range service.Spec.Ports {
			h.ports = append(h.ports, port{p.Name, strings.ToLower(string(p.Protocol)), uint16(p.Port)})
		}
		return []host{h}
	}
	list, err := z.slices.EndpointSlices(service.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name}))
	if err != nil {
		return nil
	}
	var hosts []host
	for _, slice := range list {
		for _, endpoint := range slice.Endpoints {
			ready := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready || service.Spec.PublishNotReadyAddresses
			if address, err := netip.ParseAddr(endpoint.Addresses[0]); err == nil && address.Is4() && ready {
				hosts = append(hosts, host{endpointName(endpoint), address, endpointPorts(slice.Ports)})
			}
		}
	}
	return hosts
}

func endpointName(e discoveryv1.Endpoint) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return *e.Hostname
	}
	return strings.ReplaceAll(e.Addresses[0], ".", "-")
}

func endpointPorts(list []discoveryv1.EndpointPort) []port {
	var ports []port
	for _, p := range list {
		if p.Name != nil && p.Protocol != nil && p.Port != nil {
			ports = append(ports, port{*p.Name, strings.ToLower(string(*p.Protocol)), uint16(*p.Port)})
		}
	}
	return ports
}

// reverse finds the service with the address.
func (z zone) reverse(q dnsmessage.Question, name string) ([]dnsmessage.Resource, dnsmessage.RCode) {
	digits := strings.Split(strings.TrimSuffix(name, ".in-addr.arpa."), ".")
	slices.Reverse(digits)
	address := strings.Join(digits, ".")
	services, err := z.services.Services(metav1.NamespaceAll).List(labels.Everything())
	if err != nil {
		return nil, dnsmessage.RCodeServerFailure
	}
	for _, service := range services {
		if service.Spec.ClusterIP != address {
			continue
		}
		target, err := dnsmessage.NewName(service.Name + "." + service.Namespace + "." + domain)
		if err != nil || q.Type != dnsmessage.TypePTR {
			return nil, dnsmessage.RCodeSuccess
		}
		return []dnsmessage.Resource{record(q, &dnsmessage.PTRResource{PTR: target})}, dnsmessage.RCodeSuccess
	}
	return nil, dnsmessage.RCodeNameError
}

func record(q dnsmessage.Question, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 5}, Body: body}
}
