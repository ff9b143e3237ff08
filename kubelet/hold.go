package kubelet

import (
	"context"
	"time"

	"minikubelet/kubelet/hold"
)

// holdLease returns what renews the node's lease while a debugger holds this process; nothing without --debug-hold, or
// without an apiserver.
func holdLease(ctx context.Context, b *base) []func(context.Context) {
	s := b.settings
	if !s.DebugHold || s.Standalone() {
		return nil
	}
	o := hold.Options{Kubeconfig: s.Kubeconfig, Node: s.NodeName, Duration: time.Duration(s.NodeLeaseDurationSeconds) * time.Second}
	return []func(context.Context){hold.Start(ctx, o)}
}
