package csi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
)

// nodeIDAnnotation holds, as JSON, what each driver calls the node.
const nodeIDAnnotation = "csi.volume.kubernetes.io/nodeid"

// attempts is how often a change of the node's objects is tried before it is given up with an error.
//
// Upstream: pkg/volume/csi/nodeinfomanager/nodeinfomanager.go updateBackoff.
var attempts = wait.Backoff{Steps: 4, Duration: 10 * time.Millisecond, Factor: 5, Jitter: 0.1}

// try does something until it works, as often as attempts says.
func (m *Manager) try(ctx context.Context, what func(context.Context) error) error {
	m.nodeMu.Lock()
	defer m.nodeMu.Unlock()
	var last error
	err := wait.ExponentialBackoffWithContext(ctx, attempts, func(ctx context.Context) (bool, error) {
		last = what(ctx)
		return last == nil, nil
	})
	if err != nil && last != nil {
		return last
	}
	return err
}

// install tells the cluster of a driver: on the node an annotation and the labels of its topology, in the CSINode how
// many volumes it takes.
//
// Upstream: pkg/volume/csi/nodeinfomanager/nodeinfomanager.go InstallCSIDriver.
func (m *Manager) install(ctx context.Context, name string, info *csiapi.NodeGetInfoResponse) error {
	if err := m.try(ctx, func(ctx context.Context) error {
		return m.annotate(ctx, name, info.GetNodeId(), info.GetAccessibleTopology().GetSegments())
	}); err != nil {
		return fmt.Errorf("error updating Node object with CSI driver node info: %w", err)
	}
	if err := m.try(ctx, func(ctx context.Context) error { return m.enter(ctx, name, entry(name, info)) }); err != nil {
		return fmt.Errorf("error updating CSINode object with CSI driver node info: %w", err)
	}
	return nil
}

// entry is a driver's in the CSINode.
func entry(name string, info *csiapi.NodeGetInfoResponse) *storagev1.CSINodeDriver {
	keys := maps.Keys(info.GetAccessibleTopology().GetSegments())
	e := &storagev1.CSINodeDriver{Name: name, NodeID: info.GetNodeId(), TopologyKeys: sorted(slices.Collect(keys))}
	if most := info.GetMaxVolumesPerNode(); most > 0 {
		e.Allocatable = &storagev1.VolumeNodeResources{Count: new(int32(min(most, math.MaxInt32)))}
	}
	return e
}

// uninstall takes back what install told. Labels stay, as upstream: volumes that exist refer to them.
//
// Upstream: pkg/volume/csi/nodeinfomanager/nodeinfomanager.go UninstallCSIDriver.
func (m *Manager) uninstall(ctx context.Context, name string) error {
	if err := m.try(ctx, func(ctx context.Context) error { return m.enter(ctx, name, nil) }); err != nil {
		return fmt.Errorf("error uninstalling CSI driver from CSINode object: %w", err)
	}
	if err := m.try(ctx, func(ctx context.Context) error { return m.annotate(ctx, name, "", nil) }); err != nil {
		return fmt.Errorf("error removing CSI driver node info from Node object: %w", err)
	}
	return nil
}

// annotate writes what a driver calls the node, "" for a driver that went, and the labels of its topology.
//
// Upstream: pkg/volume/csi/nodeinfomanager/nodeinfomanager.go tryUpdateNode, updateNodeIDInNode and updateTopologyLabels.
func (m *Manager) annotate(ctx context.Context, name, nodeID string, topology map[string]string) error {
	node, err := m.opts.Nodes.Get(ctx, m.opts.NodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	ids := map[string]string{}
	if text := node.Annotations[nodeIDAnnotation]; text != "" {
		if err := json.Unmarshal([]byte(text), &ids); err != nil {
			return fmt.Errorf("failed to parse node's %q annotation value (%q): %w", nodeIDAnnotation, text, err)
		}
	}
	before := maps.Clone(ids)
	if ids[name] = nodeID; nodeID == "" {
		delete(ids, name)
	}
	labels := map[string]string{}
	for key, value := range topology {
		have, exists := node.Labels[key]
		if exists && have != value {
			return fmt.Errorf("detected topology value collision: driver reported %q:%q but existing label is %q:%q", key, value, key, have)
		}
		if !exists {
			labels[key] = value
		}
	}
	if maps.Equal(before, ids) && len(labels) == 0 {
		return nil
	}
	annotation := any(nil) // which removes it
	if len(ids) > 0 {
		text, err := json.Marshal(ids)
		if err != nil {
			return err
		}
		annotation = string(text)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"annotations": map[string]any{nodeIDAnnotation: annotation}, "labels": labels,
	}})
	if err != nil {
		return err
	}
	_, err = m.opts.Nodes.Patch(ctx, m.opts.NodeName, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// enter writes a driver's entry into the CSINode, or removes it for nil.
//
// Upstream: pkg/volume/csi/nodeinfomanager/nodeinfomanager.go tryUpdateCSINode and tryUninstallDriverFromCSINode.
func (m *Manager) enter(ctx context.Context, name string, entry *storagev1.CSINodeDriver) error {
	have, err := m.csiNode(ctx)
	if err != nil {
		return err
	}
	want := have.DeepCopy()
	want.Spec.Drivers = slices.DeleteFunc(want.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == name })
	if entry != nil {
		want.Spec.Drivers = append(want.Spec.Drivers, *entry)
	}
	if len(want.Spec.Drivers) == len(have.Spec.Drivers) && equality.Semantic.DeepEqual(find(have, name), find(want, name)) {
		return nil
	}
	_, err = m.opts.CSINodes.Update(ctx, want, metav1.UpdateOptions{})
	return err
}

func find(node *storagev1.CSINode, name string) *storagev1.CSINodeDriver {
	for i := range node.Spec.Drivers {
		if node.Spec.Drivers[i].Name == name {
			return &node.Spec.Drivers[i]
		}
	}
	return nil
}

// csiNode returns the node's CSINode, making it if need be. One of an earlier node of the name is deleted first.
//
// Upstream: pkg/volume/csi/nodeinfomanager/nodeinfomanager.go CreateCSINode and ensureNodeOwnsCSINode.
func (m *Manager) csiNode(ctx context.Context) (*storagev1.CSINode, error) {
	name := m.opts.NodeName
	node, err := m.opts.Nodes.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	have, err := m.opts.CSINodes.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return m.opts.CSINodes.Create(ctx, &storagev1.CSINode{
			ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{
				{APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Node", Name: name, UID: node.UID},
			}},
			Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(have.OwnerReferences, func(o metav1.OwnerReference) bool { return o.Kind == "Node" && o.Name == name && o.UID == node.UID }) {
		return have, nil
	}
	if err := m.opts.CSINodes.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return nil, fmt.Errorf("error deleting existing CSINode %q: %w", name, err)
	}
	return nil, fmt.Errorf("CSINode %q was owned by a different node, deleted it", name)
}

// ensureCSINode makes the CSINode of a node without drivers: that there is none is something the scheduler wants to
// know. It tries until it works or ctx ends; the node may not be registered yet.
//
// Upstream: pkg/volume/csi/nodeinfomanager/nodeinfomanager.go InitializeCSINodeWithAnnotation.
func (m *Manager) ensureCSINode(ctx context.Context) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := m.try(ctx, func(ctx context.Context) error { _, err := m.csiNode(ctx); return err })
		if err == nil || ctx.Err() != nil {
			return
		}
		if !apierrors.IsNotFound(err) {
			klog.FromContext(ctx).Error(err, "Making the node's CSINode failed, will be retried", "after", wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// followNode tells the cluster of the node and its drivers anew when the node was deleted and made again, until ctx ends.
func (m *Manager) followNode(ctx context.Context) {
	var last types.UID
	for {
		node, changed := m.opts.Node()
		if last != "" && node.UID != last {
			m.ensureCSINode(ctx)
			m.reinstall(ctx)
		}
		last = node.UID
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// reinstall tells of the drivers that are registered, and tries until it works or ctx ends.
func (m *Manager) reinstall(ctx context.Context) {
	m.mu.Lock()
	drivers := maps.Clone(m.drivers)
	m.mu.Unlock()
	for name, d := range drivers {
		for wait := time.Second; ; wait = min(2*wait, time.Minute) {
			m.mu.Lock()
			there := m.drivers[name] == d
			m.mu.Unlock()
			if !there {
				break
			}
			err := m.install(ctx, name, d.info)
			if err == nil || ctx.Err() != nil {
				break
			}
			klog.FromContext(ctx).Error(err, "Telling the new node of a CSI driver failed, will be retried", "driver", name, "after", wait)
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	}
}
