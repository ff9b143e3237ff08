package node

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/klog/v2"
)

// lookupTimeout is how long the name service may take to tell the machine's address.
const lookupTimeout = time.Second

// Network is what is asked of the machine about its addresses.
type Network struct {
	Lookup func(name string) []net.IP             // by the name service
	Local  func() []net.IP                        // of all interfaces
	Route  func(preferred net.IP) (net.IP, error) // of the interface of the default route, of the family of preferred if it can be
}

var thisMachine = Network{
	Lookup: func(name string) []net.IP {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		defer cancel()
		ips, _ := net.DefaultResolver.LookupIP(ctx, "ip", name)
		return ips
	},
	Local: func() (ips []net.IP) {
		addrs, _ := net.InterfaceAddrs()
		for _, addr := range addrs {
			if prefix, ok := addr.(*net.IPNet); ok {
				ips = append(ips, prefix.IP)
			}
		}
		return ips
	},
	Route: utilnet.ResolveBindAddress,
}

// addresses are the node's now. Callers must not change them.
func (n *Node) addresses() []net.IP {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.ips
}

// watchAddresses follows the machine's addresses, as often as the status is worked out: a lease may end, an interface be
// replaced. What changed is reported at once. While none can be found the last ones stay.
func (n *Node) watchAddresses(ctx context.Context) {
	s := n.opts.Settings
	if n.awaitsCloud() || len(s.NodeIPs) > 0 && !s.NodeIPs[0].IsUnspecified() || net.ParseIP(s.NodeName) != nil {
		return
	}
	for pace := n.pace.Load(); pause(ctx, pace.update, pace.changed); pace = n.pace.Load() {
		ips, named, err := addresses(s.NodeIPs, s.NodeName, *n.opts.Network)
		if err != nil {
			klog.FromContext(ctx).Error(err, "The node's address cannot be found, the last one stays", "addresses", n.HostIPs())
			continue
		}
		n.setAddresses(ctx, ips, named)
	}
}

// setAddresses takes the node's addresses. Those that the name service had stay while it has none, if the machine still
// has them: it may be away.
func (n *Node) setAddresses(ctx context.Context, ips []net.IP, named bool) {
	before := n.addresses()
	if slices.EqualFunc(before, ips, net.IP.Equal) {
		return
	}
	local := n.opts.Network.Local()
	has := func(ip net.IP) bool { return slices.ContainsFunc(local, ip.Equal) }
	n.mu.Lock()
	stays := n.named && !named && !slices.ContainsFunc(before, func(ip net.IP) bool { return !has(ip) })
	if !stays {
		n.ips, n.named = ips, named
	}
	n.mu.Unlock()
	if stays {
		return
	}
	klog.FromContext(ctx).Info("The node's addresses have changed", "before", before, "now", ips)
	if n.opts.Nodes == nil { // there is no answer of an apiserver to take over
		alone := n.initial()
		n.mu.Lock()
		n.replace(alone)
		n.mu.Unlock()
	}
	wake(n.check)
}

// addresses returns the node's: those of --node-ip; else its name, if that is one; else that of the machine's which the
// name service has for the name; else that of the default route; else any that the machine has, where upstream gives
// up. IPv4 is preferred unless --node-ip=:: is given. It tells whether they are those that the name service has.
//
// Upstream: pkg/kubelet/nodestatus/setters.go NodeAddress.
func addresses(given []net.IP, name string, m Network) (ips []net.IP, named bool, err error) {
	var preferred net.IP
	if len(given) > 0 {
		if preferred = given[0]; !preferred.IsUnspecified() {
			return given, false, nil
		}
	}
	if ip := net.ParseIP(name); ip != nil {
		return []net.IP{ip}, false, nil
	}
	wantV4 := preferred == nil || preferred.To4() != nil
	local := m.Local()
	found := slices.DeleteFunc(m.Lookup(name), func(ip net.IP) bool { return !slices.ContainsFunc(local, ip.Equal) })
	if ip := best(found, wantV4); ip != nil {
		return []net.IP{ip}, true, nil
	}
	ip, err := m.Route(preferred)
	if err == nil {
		return []net.IP{ip}, false, nil
	}
	if ip := best(local, wantV4); ip != nil {
		return []net.IP{ip}, false, nil
	}
	return nil, false, fmt.Errorf("find the node's address (--node-ip sets it): %w", err)
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
