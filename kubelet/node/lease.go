package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	retry := backoff{most: min(period, retryMost)}
	var latest *coordinationv1.Lease
	for {
		wait := period + time.Duration(leaseJitter*rand.Float64()*float64(period))
		if node := n.registered(); node != nil {
			lease, err := n.renewLease(ctx, latest, node)
			if err == nil {
				latest = lease
				retry.reset()
			} else if ctx.Err() == nil {
				wait = retry.next()
				klog.FromContext(ctx).Error(err, "Renewing the node's lease failed, will be retried", "after", wait)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-n.appeared:
		case <-time.After(wait):
		}
	}
}

// renewLease writes the lease over the one that was written last, so that no read is needed. One that somebody else
// changed or removed is read, or made, first.
func (n *Node) renewLease(ctx context.Context, latest *coordinationv1.Lease, node *corev1.Node) (*coordinationv1.Lease, error) {
	leases := n.opts.Leases
	if latest != nil {
		lease, err := leases.Update(ctx, n.lease(latest, node), metav1.UpdateOptions{})
		if err == nil {
			return lease, nil
		}
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("update lease %s: %w", node.Name, err)
		}
	}
	have, err := leases.Get(ctx, node.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		lease, err := leases.Create(ctx, n.lease(&coordinationv1.Lease{}, node), metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("create lease %s: %w", node.Name, err)
		}
		return lease, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read lease %s: %w", node.Name, err)
	}
	lease, err := leases.Update(ctx, n.lease(have, node), metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update lease %s: %w", node.Name, err)
	}
	return lease, nil
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

// backoff doubles waits, from retryFirst to most.
type backoff struct{ wait, most time.Duration }

func (b *backoff) next() time.Duration {
	b.wait = min(max(2*b.wait, retryFirst), b.most)
	return b.wait
}

func (b *backoff) reset() { b.wait = 0 }
