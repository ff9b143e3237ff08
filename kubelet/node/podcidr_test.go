package node

import (
	"slices"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/crifake"
)

// podCIDRs are those that the runtime was told, in their order.
func (w *world) podCIDRs() (told []string) {
	for _, r := range crifake.Requests[*runtimeapi.UpdateRuntimeConfigRequest](w.cri) {
		told = append(told, r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr())
	}
	return told
}

// TestPodCIDR: the runtime is told the configuration's pod CIDR, then the node's, each once and until it took it.
func TestPodCIDR(t *testing.T) {
	for name, tt := range map[string]struct {
		args    []string
		failure error
		want    []string
	}{
		"none of the configuration":   {nil, nil, []string{"10.1.0.0/24,fd00::/64", "10.2.0.0/24"}},
		"one of the configuration":    {[]string{"--pod-cidr=10.0.0.0/24"}, nil, []string{"10.0.0.0/24", "10.1.0.0/24,fd00::/64", "10.2.0.0/24"}},
		"the runtime is away":         {nil, status.Error(codes.Unavailable, "away"), []string{"10.1.0.0/24,fd00::/64", "10.1.0.0/24,fd00::/64", "10.2.0.0/24"}},
		"the runtime cannot be asked": {nil, status.Error(codes.Unimplemented, "none"), []string{"10.1.0.0/24,fd00::/64", "10.2.0.0/24"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tt.args...)
				if tt.failure != nil {
					w.cri.FailNext("UpdateRuntimeConfig", tt.failure)
				}
				w.start(nil)
				defer w.stop()
				w.wait(silencePatience)
				for _, cidrs := range [][]string{{"10.1.0.0/24", "fd00::/64"}, {"10.2.0.0/24"}} {
					w.update(func(n *corev1.Node) { n.Spec.PodCIDRs = cidrs })
					w.wait(2 * w.settings.NodeStatusUpdateFrequency.Duration)
				}
				if got := w.podCIDRs(); !slices.Equal(got, tt.want) {
					t.Errorf("the runtime was told %q, want %q", got, tt.want)
				}
			})
		})
	}
}

// TestPodCIDRAlone: without an apiserver the configuration's counts.
func TestPodCIDRAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "--pod-cidr=10.0.0.0/24")
		o := w.options(root(t, nil))
		o.Nodes, o.Leases, o.Watch = nil, nil, nil
		w.startWith(o)
		defer w.stop()
		w.wait(silencePatience)
		if got := w.podCIDRs(); !slices.Equal(got, []string{"10.0.0.0/24"}) {
			t.Errorf("the runtime was told %q", got)
		}
	})
}
