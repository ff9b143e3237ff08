package node

import (
	"context"
	"math"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
)

// leaseJitter spreads the renewals of many nodes.
const leaseJitter = 0.04

// keepLease renews the node's lease, from which the cluster sees that it lives, four times in its duration. A node that
// is not registered, or was deleted, has none.
//
// Upstream: pkg/kubelet/kubelet.go nodeLeaseController, component-helpers/apimachinery/lease/controller.go Run.
func (n *Node) keepLease(ctx context.Context) {
	period := time.Duration(n.opts.Settings.NodeLeaseDurationSeconds) * time.Second / 4
	fresh := retries(min(period, retryMost))
	retry := fresh
	var latest *coordinationv1.Lease
	for ctx.Err() == nil {
		delay := wait.Jitter(period, leaseJitter)
		if node := n.registered(); node != nil {
			lease, err := n.renewLease(ctx, latest, node)
			if err == nil {
				latest, retry = lease, fresh
			} else if ctx.Err() == nil {
				delay = retry.Step()
				klog.FromContext(ctx).Error(err, "Renewing the node's lease failed, will be retried", "after", delay)
			}
		}
		pause(ctx, delay, n.appeared)
	}
}

// renewLease writes the lease over the one that was written last, so that no read is needed. A lease that another client
// changed or removed is read, or made, first.
func (n *Node) renewLease(ctx context.Context, latest *coordinationv1.Lease, node *corev1.Node) (*coordinationv1.Lease, error) {
	leases := n.opts.Leases
	if latest != nil {
		lease, err := leases.Update(ctx, n.lease(latest, node), metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return lease, err
		}
	}
	have, err := leases.Get(ctx, node.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return leases.Create(ctx, n.lease(&coordinationv1.Lease{}, node), metav1.CreateOptions{})
	case err != nil:
		return nil, err
	}
	return leases.Update(ctx, n.lease(have, node), metav1.UpdateOptions{})
}

// lease is the lease renewed now. It belongs to the node, and goes with it.
func (n *Node) lease(have *coordinationv1.Lease, node *corev1.Node) *coordinationv1.Lease {
	lease := have.DeepCopy()
	lease.Name, lease.Namespace = node.Name, corev1.NamespaceNodeLease
	lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	lease.Spec.HolderIdentity = &node.Name
	lease.Spec.LeaseDurationSeconds = &n.opts.Settings.NodeLeaseDurationSeconds
	lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
	return lease
}

// retryFirst and retryMost are the shortest and the longest wait before a write that failed is tried again.
const (
	retryFirst = 200 * time.Millisecond
	retryMost  = 5 * time.Second
)

// retries are waits that double, from retryFirst to most.
func retries(most time.Duration) wait.Backoff {
	return wait.Backoff{Duration: min(retryFirst, most), Factor: 2, Steps: math.MaxInt32, Cap: most}
}

// pause waits for as long, or until it is woken, and reports whether ctx goes on.
func pause(ctx context.Context, atMost time.Duration, wake <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-time.After(atMost):
	}
	return true
}
