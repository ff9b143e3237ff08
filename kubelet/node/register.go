package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"minikubelet/status/patch"
)

// register makes the node's object, or brings one that exists up to date. It tries until it works, and returns false
// if ctx ends first.
//
// Upstream: pkg/kubelet/kubelet_node_status.go registerWithAPIServer.
func (n *Node) register(ctx context.Context) bool {
	for retry := retries(7 * time.Second); ; {
		err := n.registerOnce(ctx)
		if err == nil {
			return true
		}
		delay := retry.Step()
		if ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Registering the node failed, will be retried", "node", n.opts.Settings.NodeName, "after", delay)
		}
		if !pause(ctx, delay, nil) {
			return false
		}
	}
}

// registerOnce registers the node, without its labels of roles if these are what the apiserver refuses.
func (n *Node) registerOnce(ctx context.Context) error {
	roles := n.opts.Settings.RoleLabels
	refused := n.registerAs(ctx, roles)
	if len(roles) == 0 || !apierrors.IsForbidden(refused) {
		return refused
	}
	if err := n.registerAs(ctx, nil); err != nil {
		return err
	}
	klog.FromContext(ctx).Info("The apiserver does not let the node set its roles, it registered without them", "labels", roles, "err", refused)
	return nil
}

func (n *Node) registerAs(ctx context.Context, roles map[string]string) error {
	nodes := n.opts.Nodes
	wanted := n.initial()
	maps.Copy(wanted.Labels, roles)
	made, err := nodes.Create(ctx, wanted, metav1.CreateOptions{})
	if err == nil {
		klog.FromContext(ctx).Info("Registered the node", "node", wanted.Name)
		n.set(made)
		n.events(&corev1.NodeStatus{}, &made.Status)
		return nil
	}
	// Where the kubelet may not make its node, an administrator may have made it.
	failed := fmt.Errorf("create node %s: %w", wanted.Name, err)
	if !apierrors.IsAlreadyExists(err) && !apierrors.IsForbidden(err) {
		return failed
	}
	have, err := nodes.Get(ctx, wanted.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return failed
	case err != nil:
		return fmt.Errorf("read node %s: %w", wanted.Name, err)
	}
	// Labels that the kubelet was told to set are set again; taints are for a node's first registration only.
	changed := have.DeepCopy()
	if changed.Labels == nil {
		changed.Labels = map[string]string{}
	}
	maps.Copy(changed.Labels, wanted.Labels)
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	maps.Copy(changed.Annotations, wanted.Annotations)
	if changed.Spec.ProviderID == "" {
		changed.Spec.ProviderID = wanted.Spec.ProviderID
	}
	if have, err = n.patch(ctx, have, changed, ""); err != nil {
		return err
	}
	if have, err = n.resetExtended(ctx, have); err != nil { // part: devices, kubelet/devices
		return err
	}
	n.set(have)
	return nil
}

// patch sends the difference of two versions of the node, if there is any, to the object or its subresource.
func (n *Node) patch(ctx context.Context, have, want *corev1.Node, subresource string) (*corev1.Node, error) {
	if equality.Semantic.DeepEqual(have, want) {
		return have, nil
	}
	body, err := patchOf(have, want)
	if err != nil {
		return nil, fmt.Errorf("compute the patch of node %s: %w", have.Name, err)
	}
	if body == nil { // they differ in what the API has no room for, such as parts of a second
		return have, nil
	}
	var sub []string
	if subresource != "" {
		sub = []string{subresource}
	}
	got, err := n.opts.Nodes.Patch(ctx, have.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, sub...)
	if err != nil {
		return nil, fmt.Errorf("patch node %s: %w", have.Name, err)
	}
	return got, nil
}

// patchOf returns the strategic merge patch of two versions of the node, nil if they are encoded alike. Addresses are
// merged by their type, but a dual-stack node has two of one type, so that the list is replaced as a whole.
func patchOf(have, want *corev1.Node) ([]byte, error) {
	body, err := patch.Diff(have, want)
	if err != nil || body == nil || slices.Equal(have.Status.Addresses, want.Status.Addresses) {
		return body, err
	}
	var changes, status map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(body, &changes), json.Unmarshal(changes["status"], &status)); err != nil {
		return nil, err
	}
	addresses := []any{map[string]string{"$patch": "replace"}}
	for _, a := range want.Status.Addresses {
		addresses = append(addresses, a)
	}
	delete(status, "$setElementOrder/addresses")
	if status["addresses"], err = json.Marshal(addresses); err != nil {
		return nil, err
	}
	if changes["status"], err = json.Marshal(status); err != nil {
		return nil, err
	}
	return json.Marshal(changes)
}

// attachedByController says that a controller attaches volumes to the node.
const attachedByController = "volumes.kubernetes.io/controller-managed-attach-detach"

// initial is the node as it registers.
func (n *Node) initial() *corev1.Node {
	s := n.opts.Settings
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: s.NodeName, Labels: n.machine.labels(s.NodeName)}}
	maps.Copy(node.Labels, s.NodeLabels)
	node.Annotations = map[string]string{attachedByController: "true"}
	n.tellCloud(node)
	node.Spec.ProviderID = s.ProviderID
	node.Spec.Taints = slices.Clone(s.RegisterWithTaints)
	if s.ExternalCloud {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: uninitialized, Value: "true", Effect: corev1.TaintEffectNoSchedule})
	}
	n.mu.RLock()
	state, images, pressure := n.state(), n.images, n.pressure
	n.mu.RUnlock()
	node.Status = n.status(corev1.NodeStatus{}, state, images, pressure, time.Now())
	return node
}
