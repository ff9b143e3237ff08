package node

import (
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestAddressesChange: an address that the machine gets in place of another one reaches the status; what the name service
// said counts while the machine has it.
func TestAddressesChange(t *testing.T) {
	type state struct{ lookup, local, route string }
	for name, alone := range map[string]bool{"registered": false, "standalone": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.settings.NodeIPs = nil
				var now atomic.Pointer[state]
				now.Store(&state{local: "192.0.2.1", route: "192.0.2.1"})
				ips := func(text string) []net.IP {
					if text == "" {
						return nil
					}
					return []net.IP{net.ParseIP(text)}
				}
				o := w.options(root(t, nil))
				o.Network = &Network{
					Lookup: func(string) []net.IP { return ips(now.Load().lookup) },
					Local:  func() []net.IP { return ips(now.Load().local) },
					Route: func(net.IP) (net.IP, error) {
						if now.Load().route == "" {
							return nil, errors.New("no default route")
						}
						return net.ParseIP(now.Load().route), nil
					},
				}
				if alone {
					o.Watch, o.Nodes, o.Leases = nil, nil, nil
				}
				w.startWith(o)
				defer w.stop()
				for _, tt := range []struct {
					name string
					now  state
					want string
				}{
					{"at the start", *now.Load(), "192.0.2.1"},
					{"another lease", state{local: "192.0.2.2", route: "192.0.2.2"}, "192.0.2.2"},
					{"no network", state{}, "192.0.2.2"},
					{"a name", state{lookup: "192.0.2.3", local: "192.0.2.3", route: "192.0.2.9"}, "192.0.2.3"},
					{"the name service is away", state{local: "192.0.2.3", route: "192.0.2.9"}, "192.0.2.3"},
					{"and the address is gone", state{local: "192.0.2.9", route: "192.0.2.9"}, "192.0.2.9"},
				} {
					now.Store(&tt.now)
					w.wait(w.settings.NodeStatusUpdateFrequency.Duration + time.Second)
					node := w.node.Node()
					if !alone {
						node = w.get()
					}
					i := slices.IndexFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP })
					if got := node.Status.Addresses[i].Address; got != tt.want || !slices.Equal(w.node.HostIPs(), []string{tt.want}) {
						t.Errorf("%s: the status has %s, hosts' IPs are %v; want %s", tt.name, got, w.node.HostIPs(), tt.want)
					}
				}
			})
		})
	}
}
