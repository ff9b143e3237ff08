package node

import (
	"encoding/json"
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func addressesOf(node *corev1.Node) (all []string) {
	for _, a := range node.Status.Addresses {
		all = append(all, string(a.Type)+"="+a.Address)
	}
	return all
}

// TestExternalCloud: the node waits for its cloud controller, tells it --node-ip, and keeps the addresses and the provider
// ID that the controller wrote.
func TestExternalCloud(t *testing.T) {
	for name, tt := range map[string]struct {
		ips        []net.IP
		args       []string
		annotation string
		before     []string // the addresses before the controller wrote any
		hostIPs    []string
		providerID string
	}{
		"one address": {
			[]net.IP{net.ParseIP("192.0.2.1")}, nil, "192.0.2.1", []string{"InternalIP=192.0.2.1", "Hostname=node-1"}, []string{"192.0.2.1"}, "aws://i-1",
		},
		"both families": {
			[]net.IP{net.ParseIP("192.0.2.1"), net.ParseIP("2001:db8::1")}, nil, "192.0.2.1,2001:db8::1",
			[]string{"InternalIP=192.0.2.1", "InternalIP=2001:db8::1", "Hostname=node-1"}, []string{"192.0.2.1", "2001:db8::1"}, "aws://i-1",
		},
		"no address": {nil, []string{"--provider-id=given://1"}, "", []string{"Hostname=node-1"}, nil, "given://1"},
		"family only": {
			[]net.IP{net.IPv4zero}, nil, "", []string{"InternalIP=192.0.2.9", "Hostname=node-1"}, []string{"192.0.2.9"}, "aws://i-1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, append(tt.args, "--cloud-provider=external")...)
				w.settings.NodeIPs = tt.ips
				o := w.options(root(t, nil))
				o.Network = &Network{
					Lookup: func(string) []net.IP { return nil }, Local: func() []net.IP { return nil },
					Route: func(preferred net.IP) (net.IP, error) {
						if preferred == nil {
							return nil, errors.New("no default route")
						}
						return net.ParseIP("192.0.2.9"), nil
					},
				}
				w.startWith(o)
				defer w.stop()
				w.wait(silencePatience)
				node := w.get()
				taint := corev1.Taint{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule}
				if !slices.Contains(node.Spec.Taints, taint) {
					t.Errorf("taints: %v", node.Spec.Taints)
				}
				if got := node.Annotations["alpha.kubernetes.io/provided-node-ip"]; got != tt.annotation {
					t.Errorf("provided-node-ip is %q, want %q", got, tt.annotation)
				}
				if got := addressesOf(node); !slices.Equal(got, tt.before) || !slices.Equal(w.node.HostIPs(), tt.hostIPs) {
					t.Errorf("addresses %v, host IPs %v; want %v, %v", got, w.node.HostIPs(), tt.before, tt.hostIPs)
				}

				w.patch(map[string]any{
					"spec": map[string]any{"taints": nil, "providerID": tt.providerID},
					"status": map[string]any{"addresses": []corev1.NodeAddress{
						{Type: corev1.NodeExternalIP, Address: "203.0.113.1"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.5"}, {Type: corev1.NodeHostName, Address: "cloud-name"},
						{Type: corev1.NodeInternalDNS, Address: "node-1.internal"},
					}},
				})
				w.pleg.Store(new(errors.New("a change of the status")))
				w.wait(w.settings.NodeStatusUpdateFrequency.Duration + time.Second)
				node = w.get()
				if node.Spec.ProviderID != tt.providerID || len(node.Spec.Taints) > 0 {
					t.Errorf("provider ID %q, taints %v", node.Spec.ProviderID, node.Spec.Taints)
				}
				for _, want := range []string{"InternalIP=192.0.2.5", "ExternalIP=203.0.113.1", "InternalDNS=node-1.internal"} {
					if got := addressesOf(node); !slices.Contains(got, want) || slices.Contains(got, "Hostname=node-1") && !slices.Contains(tt.before, "Hostname=node-1") {
						t.Errorf("the controller's addresses became %v", got)
					}
				}
			})
		})
	}
}

// patch writes into the node as others do.
func (w *world) patch(change map[string]any) {
	w.t.Helper()
	body, err := json.Marshal(change)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.api.CoreV1().Nodes().Patch(w.t.Context(), "node-1", types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// TestNoCloudAnyMore: what was for the cloud controller goes when it no longer holds, and addresses are the kubelet's again.
func TestNoCloudAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		existing := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "uid-0", Annotations: map[string]string{"alpha.kubernetes.io/provided-node-ip": "192.0.2.7", "a": "b"}}}
		existing.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}}
		if err := w.api.Tracker().Add(existing); err != nil {
			t.Fatal(err)
		}
		w.start(nil)
		defer w.stop()
		w.wait(silencePatience)
		node := w.get()
		if _, has := node.Annotations["alpha.kubernetes.io/provided-node-ip"]; has || node.Annotations["a"] != "b" {
			t.Errorf("annotations: %v", node.Annotations)
		}
		if got := addressesOf(node); !slices.Contains(got, "InternalIP=192.0.2.1") {
			t.Errorf("addresses: %v", got)
		}
	})
}

// TestHostIPs: pods share the first address of each family, internal ones before external ones.
func TestHostIPs(t *testing.T) {
	internal := func(ip string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip}
	}
	external := func(ip string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: ip}
	}
	name := corev1.NodeAddress{Type: corev1.NodeHostName, Address: "192.0.2.99"}
	for _, tt := range []struct {
		have []corev1.NodeAddress
		want []string
	}{
		{nil, nil},
		{[]corev1.NodeAddress{name}, nil},
		{[]corev1.NodeAddress{external("203.0.113.1"), name}, []string{"203.0.113.1"}},
		{[]corev1.NodeAddress{external("203.0.113.1"), internal("192.0.2.1"), internal("192.0.2.2")}, []string{"192.0.2.1"}},
		{[]corev1.NodeAddress{internal("2001:db8::1"), external("203.0.113.1")}, []string{"2001:db8::1", "203.0.113.1"}},
		{[]corev1.NodeAddress{internal("no address"), internal("192.0.2.1")}, []string{"192.0.2.1"}},
	} {
		if got := HostIPs(&corev1.Node{Status: corev1.NodeStatus{Addresses: tt.have}}); !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v, want %v", tt.have, got, tt.want)
		}
	}
}
