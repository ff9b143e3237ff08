package node

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// lookupTimeout is how long the name service may take to tell the machine's address.
const lookupTimeout = time.Second

// network is what addresses asks of the machine.
type network struct {
	lookup func(name string) []net.IP             // by the name service
	local  func() []net.IP                        // of all interfaces
	route  func(preferred net.IP) (net.IP, error) // of the interface of the default route, of the family of preferred if it can be
}

var thisMachine = network{
	lookup: func(name string) []net.IP {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		defer cancel()
		ips, _ := net.DefaultResolver.LookupIP(ctx, "ip", name)
		return ips
	},
	local: func() (ips []net.IP) {
		addrs, _ := net.InterfaceAddrs()
		for _, addr := range addrs {
			if prefix, ok := addr.(*net.IPNet); ok {
				ips = append(ips, prefix.IP)
			}
		}
		return ips
	},
	route: utilnet.ResolveBindAddress,
}

// addresses returns the node's: those of --node-ip; else its name, if that is one; else that of the machine's which the
// name service has for the name; else that of the default route; else any that the machine has, where upstream gives
// up. IPv4 is preferred unless --node-ip=:: is given.
//
// Upstream: pkg/kubelet/nodestatus/setters.go NodeAddress.
func addresses(given []net.IP, name string, m network) ([]net.IP, error) {
	var preferred net.IP
	if len(given) > 0 {
		if preferred = given[0]; !preferred.IsUnspecified() {
			return given, nil
		}
	}
	if ip := net.ParseIP(name); ip != nil {
		return []net.IP{ip}, nil
	}
	wantV4 := preferred == nil || preferred.To4() != nil
	local := m.local()
	named := slices.DeleteFunc(m.lookup(name), func(ip net.IP) bool { return !slices.ContainsFunc(local, ip.Equal) })
	if ip := best(named, wantV4); ip != nil {
		return []net.IP{ip}, nil
	}
	ip, err := m.route(preferred)
	if err == nil {
		return []net.IP{ip}, nil
	}
	if ip := best(local, wantV4); ip != nil {
		return []net.IP{ip}, nil
	}
	return nil, fmt.Errorf("find the node's address (--node-ip sets it): %w", err)
}

// best returns the first address that others can reach, of the wanted family if there is one; nil for none.
func best(ips []net.IP, wantV4 bool) (first net.IP) {
	for _, ip := range ips {
		switch {
		case !ip.IsGlobalUnicast():
		case (ip.To4() != nil) == wantV4:
			return ip
		case first == nil:
			first = ip
		}
	}
	return first
}
