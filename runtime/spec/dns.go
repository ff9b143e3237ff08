package spec

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	maxResolvConf  = 10 << 20 // bytes of the host's file that are read
	maxNameservers = 3
)

// How many domains resolvers search at most, and how long they are together, with the spaces between them.
const (
	MaxSearchPaths   = 32
	MaxSearchLineLen = 2048
)

// DNS is the pod's resolv.conf: from its policy, then its dnsConfig, then cut to what resolvers can take. host is the
// node's own, nil if the node has none for pods.
func (n *Node) DNS(pod *corev1.Pod, host *runtimeapi.DNSConfig) (*runtimeapi.DNSConfig, []Warning) {
	config, warnings := n.policyDNS(pod, host)
	if extra := pod.Spec.DNSConfig; extra != nil {
		config.Servers = unique(append(config.Servers, extra.Nameservers...))
		config.Searches = unique(append(config.Searches, extra.Searches...))
		for _, option := range extra.Options {
			text := option.Name
			if option.Value != nil && *option.Value != "" {
				text += ":" + *option.Value
			}
			config.Options = setOption(config.Options, text)
		}
	}
	return config, append(warnings, limitDNS(config)...)
}

// policyDNS applies dnsPolicy.
func (n *Node) policyDNS(pod *corev1.Pod, host *runtimeapi.DNSConfig) (*runtimeapi.DNSConfig, []Warning) {
	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSNone {
		return &runtimeapi.DNSConfig{}, nil
	}
	out := &runtimeapi.DNSConfig{
		Servers: slices.Clone(host.GetServers()), Searches: slices.Clone(host.GetSearches()), Options: slices.Clone(host.GetOptions()),
	}
	cluster := policy != corev1.DNSDefault && (policy != corev1.DNSClusterFirst || !pod.Spec.HostNetwork)
	if cluster && len(n.ClusterDNS) > 0 {
		out.Servers, out.Options = slices.Clone(n.ClusterDNS), []string{"ndots:5"}
		if domain := n.ClusterDomain; domain != "" {
			out.Searches = unique(append([]string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}, out.Searches...))
		}
		return out, nil
	}
	if host == nil {
		// Without any nameserver the runtime would use its default; the loopback means that there is none.
		out.Servers, out.Searches = []string{"127.0.0.1"}, []string{"."}
	}
	if !cluster {
		return out, nil
	}
	return out, []Warning{{ReasonMissingClusterDNS, fmt.Sprintf(
		"pod: %q. kubelet does not have ClusterDNS IP configured and cannot create Pod using %q policy. Falling back to %q policy.",
		ReferenceName(pod), corev1.DNSClusterFirst, corev1.DNSDefault)}}
}

// ParseResolvConf reads nameserver, search and options lines: nameservers add up, the last search line and the last
// value of an option win. A nameserver that is no address is left out, as resolvers do.
func ParseResolvConf(from io.Reader) (*runtimeapi.DNSConfig, error) {
	content, err := io.ReadAll(io.LimitReader(from, maxResolvConf+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxResolvConf {
		return nil, fmt.Errorf("more than %d bytes", maxResolvConf)
	}
	config := &runtimeapi.DNSConfig{}
	for line := range strings.SplitSeq(string(content), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") || strings.HasPrefix(fields[0], ";") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if len(fields) < 2 {
				return nil, fmt.Errorf("nameserver list is empty")
			}
			address, _, _ := strings.Cut(fields[1], "%")
			if net.ParseIP(address) != nil {
				config.Servers = append(config.Servers, fields[1])
			}
		case "search":
			config.Searches = nil
			for _, domain := range fields[1:] {
				// With and without its final dot a domain is the same, and counts once.
				if domain != "." {
					config.Searches = append(config.Searches, strings.TrimSuffix(domain, "."))
				}
			}
		case "options":
			for _, option := range fields[1:] {
				config.Options = setOption(config.Options, option)
			}
		}
	}
	return config, nil
}

// setOption replaces an option of the same name ("ndots:1" by "ndots:5") or appends a new one.
func setOption(options []string, option string) []string {
	name, _, _ := strings.Cut(option, ":")
	for i, old := range options {
		if oldName, _, _ := strings.Cut(old, ":"); oldName == name {
			options[i] = option
			return options
		}
	}
	return append(options, option)
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// limitDNS cuts the lists to what resolvers accept and returns a warning for each list it cut.
func limitDNS(config *runtimeapi.DNSConfig) (warnings []Warning) {
	warn := func(message string, list []string) {
		warnings = append(warnings, Warning{ReasonDNSConfigForming, message + strings.Join(list, " ")})
	}
	if len(config.Servers) > maxNameservers {
		config.Servers = config.Servers[:maxNameservers]
		warn("Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: ", config.Servers)
	}
	var searches []string
	length := 0
	for _, domain := range config.Searches {
		if len(domain) > validation.DNS1123SubdomainMaxLength {
			continue // glibc aborts on a longer one
		}
		if len(searches) == MaxSearchPaths || length+len(domain) > MaxSearchLineLen {
			break
		}
		searches = append(searches, domain)
		length += len(domain) + 1
	}
	if len(searches) < len(config.Searches) {
		warn("Search Line limits were exceeded, some search paths have been omitted, the applied search line is: ", searches)
	}
	config.Searches = searches
	return warnings
}
