package node

import (
	"cmp"
	"context"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/cri"
)

// part: the node's addresses for pods, told to the runtime.

// tellPodCIDR tells the runtime of the addresses that the node's pods are to have: podCIDR of the configuration, until the
// node's object has some. A runtime whose network plugin has a configuration of its own takes no notice. What could not
// be told is told again with the next status.
//
// Upstream: pkg/kubelet/kubelet_network.go updatePodCIDR
func (n *Node) tellPodCIDR(ctx context.Context) {
	told := ""
	for {
		node, changed := n.Current()
		var again <-chan time.Time
		if now := cmp.Or(strings.Join(node.Spec.PodCIDRs, ","), n.opts.Settings.PodCIDR); now != told {
			log := klog.FromContext(ctx).WithValues("podCIDR", now, "before", told)
			_, err := n.opts.CRI.Runtime.UpdateRuntimeConfig(ctx, &runtimeapi.UpdateRuntimeConfigRequest{
				RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: now}},
			})
			switch {
			case err == nil, cri.IsUnimplemented(err):
				log.Info("The runtime was told the node's pod CIDR", "err", err)
				told = now
			default:
				log.Error(err, "Telling the runtime the node's pod CIDR failed, will be retried")
				again = time.After(n.pace.Load().update)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-again:
		}
	}
}
