package kubelet

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"minikubelet/kubelet/hold"
)

// holdLease returns what renews the node's lease while a debugger holds this process; nothing without --debug-hold. A kubelet
// without an apiserver has no lease.
func holdLease(ctx context.Context, b *base) []func(context.Context) {
	s, logger := b.settings, klog.FromContext(ctx)
	switch {
	case !s.DebugHold:
		return nil
	case s.Standalone():
		logger.Info("WARNING: --debug-hold: calls to the runtime may take an hour; there is no apiserver, and so no lease to renew")
		return nil
	}
	wait, err := hold.Start(ctx, hold.Options{Kubeconfig: s.Kubeconfig, Node: s.NodeName, Duration: time.Duration(s.NodeLeaseDurationSeconds) * time.Second})
	if err != nil {
		logger.Error(err, "The node's lease is not renewed while a debugger holds the kubelet")
		return nil
	}
	logger.Info("WARNING: --debug-hold: the node stays Ready in its cluster even while a debugger holds the kubelet and its pods are not synced")
	return []func(context.Context){wait}
}
