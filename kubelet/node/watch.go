package node

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// watchNode follows the node's object, so that changed labels and taints count at once in admission.
func (n *Node) watchNode(ctx context.Context) {
	store := &watched{n, klog.FromContext(ctx)}
	reflector := cache.NewReflectorWithOptions(n.opts.Watch, &corev1.Node{}, store, cache.ReflectorOptions{Name: "kubelet node"})
	reflector.RunWithContext(ctx)
}

// watched is told by the reflector what the apiserver has.
type watched struct {
	n      *Node
	logger klog.Logger
}

// Add is called for a node that appeared.
func (w *watched) Add(object any) error { return w.Update(object) }

// Update is called for a node that changed. A watch may tell late of what an answer already told.
func (w *watched) Update(object any) error {
	if node := w.ours(object); node != nil {
		w.n.set(node)
	}
	return nil
}

// Delete is called for a node that was deleted.
func (w *watched) Delete(object any) error {
	if w.ours(object) != nil {
		w.gone()
	}
	return nil
}

// Replace is called with all there is. It counts even if it is older: then the apiserver was set back.
func (w *watched) Replace(objects []any, _ string) error {
	for _, object := range objects {
		if node := w.ours(object); node != nil {
			w.n.mu.Lock()
			defer w.n.mu.Unlock()
			w.n.replace(node)
			return nil
		}
	}
	w.gone()
	return nil
}

// Resync does nothing: there is no more to tell.
func (w *watched) Resync() error { return nil }

func (w *watched) ours(object any) *corev1.Node {
	if node, ok := object.(*corev1.Node); ok && node.Name == w.n.opts.Settings.NodeName {
		return node
	}
	return nil
}

// gone notes that the node was deleted, or that there is none before it registers for the first time.
func (w *watched) gone() {
	w.n.mu.Lock()
	w.n.deleted = true
	w.n.isSynced()
	if w.n.node.UID != "" {
		wake(w.n.vanished)
	}
	w.n.mu.Unlock()
	w.logger.Info("The node is not in the apiserver; its status and lease are not written until it is", "node", w.n.opts.Settings.NodeName)
}

// comeBack is how long a deleted node stays away: its name may be given to a new object at once.
const comeBack = 5 * time.Second

// comeBackAfterDeletion registers the node again when it was deleted and no other client has made it. A node that shall be
// gone for good is deleted after its kubelet was stopped.
func (n *Node) comeBackAfterDeletion(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.vanished:
		}
		if !pause(ctx, comeBack, nil) || n.registered() == nil && !n.register(ctx) {
			return
		}
	}
}

// set takes a version of the node unless it has a newer one.
func (n *Node) set(node *corev1.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if order, err := resourceversion.CompareResourceVersion(node.ResourceVersion, n.node.ResourceVersion); err == nil && order < 0 {
		return
	}
	n.replace(node)
}

// isSynced closes what Synced returns. Callers hold mu.
func (n *Node) isSynced() {
	if !n.known {
		n.known = true
		close(n.synced)
	}
}

// replace takes a version of the node, and wakes what waits for there to be one. Callers hold mu.
func (n *Node) replace(node *corev1.Node) {
	appeared := n.deleted || n.node.UID != node.UID
	node = node.DeepCopy()
	node.ManagedFields = nil
	n.node, n.deleted = node, false
	if node.UID != "" {
		n.refer(node.UID)
		n.isSynced()
	}
	close(n.changed)
	n.changed = make(chan struct{})
	if appeared {
		wake(n.appeared)
		wake(n.check)
	}
	if unschedulable := node.Spec.Unschedulable; unschedulable != n.unschedulable {
		n.unschedulable = unschedulable
		reason := "NodeSchedulable"
		if unschedulable {
			reason = "NodeNotSchedulable"
		}
		n.event(reason)
	}
}

// lost notes that the node was not found, unless it was heard of since.
func (n *Node) lost(asked *corev1.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.node == asked {
		n.deleted = true
		wake(n.vanished)
	}
}

// registered returns the node as the apiserver has it, nil if it has none.
func (n *Node) registered() *corev1.Node {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.node.UID == "" || n.deleted {
		return nil
	}
	return n.node
}

// wake sends a signal to a channel of capacity 1; several are one.
func wake(signal chan<- struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}
