package node

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/klog/v2"
)

// watchImages lists the images on the node every nodeStatusUpdateFrequency, beside the rest of the status: a runtime
// that is slow to list them holds nothing up.
//
// Upstream: pkg/kubelet/nodestatus/setters.go Images.
func (n *Node) watchImages(ctx context.Context) {
	for ctx.Err() == nil {
		pace := n.pace.Load()
		images, err := n.listImages(ctx)
		if err != nil {
			klog.FromContext(ctx).V(2).Info("Listing images failed, the node's status keeps those it has", "err", err)
		} else if n.setImages(images) {
			wake(n.check)
		}
		pause(ctx, pace.update, pace.changed)
	}
}

// listImages lists the images that the status may show; never nil without an error.
func (n *Node) listImages(ctx context.Context) ([]corev1.ContainerImage, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	images, err := n.opts.Images(ctx)
	if err != nil {
		return nil, err
	}
	if limit := n.pace.Load().images; limit >= 0 && len(images) > limit {
		images = images[:limit]
	}
	if images == nil {
		images = []corev1.ContainerImage{}
	}
	return images, nil
}

// setImages tells whether they are others than before.
func (n *Node) setImages(images []corev1.ContainerImage) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed := n.images == nil || !equality.Semantic.DeepEqual(n.images, images)
	n.images = images
	return changed
}
