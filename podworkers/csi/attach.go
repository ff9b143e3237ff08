package csi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// attachTimeout is how long a pod waits for a volume to be attached before it tells of it and waits again.
//
// Upstream: pkg/kubelet/volumemanager/volume_manager.go podAttachAndMountTimeout.
var attachTimeout = 2*time.Minute + 3*time.Second

// attached waits until the volume is attached to the node, and returns what its controller has to say to the driver.
// The node's status must say first that the volume is in use: from then on the controller does not detach it. That it is attached
// stands in the node's status as well, which is watched.
//
// Upstream: pkg/volume/util/operationexecutor/operation_generator.go GenerateVerifyControllerAttachedVolumeFunc and
// pkg/volume/csi/csi_attacher.go WaitForAttach.
func (m *Manager) attached(ctx context.Context, r *Request) (map[string]string, error) {
	v := r.id()
	defer m.waitsFor(r.Pod.UID, r.Volume)()
	limited, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	for {
		node, changed := m.opts.Node()
		inUse := slices.Contains(node.Status.VolumesInUse, v.unique())
		if !inUse {
			m.opts.InUseChanged()
		}
		if inUse && slices.ContainsFunc(node.Status.VolumesAttached, func(a corev1.AttachedVolume) bool { return a.Name == v.unique() }) {
			metadata, err := m.attachment(ctx, v)
			return metadata, failedAt(r.steps().attach, err)
		}
		select {
		case <-changed:
		case <-limited.Done():
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			_, err := m.attachment(ctx, v)
			if err == nil {
				err = errors.New("the node's status does not list it yet")
			} else if failed, is := errors.AsType[*attachError](err); is && m.exhausted(ctx, r.Driver, failed) {
				err = fmt.Errorf("%w: %w", ErrAttachLimit, err)
			}
			return nil, fmt.Errorf("%w: %w", ErrNotAttached, err)
		}
	}
}

// waitsFor notes that a pod waits for one of its volumes to be attached, until the returned function is called.
func (m *Manager) waitsFor(pod types.UID, volume string) (done func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiting[pod] = append(m.waiting[pod], volume)
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.waiting[pod] = slices.DeleteFunc(m.waiting[pod], func(name string) bool { return name == volume })
		if len(m.waiting[pod]) == 0 {
			delete(m.waiting, pod)
		}
	}
}

// Attaching returns the names of the pod's volumes that it waits for to be attached to the node.
func (m *Manager) Attaching(pod types.UID) []string {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.waiting[pod])
}

// attachment reads the volume's VolumeAttachment. A node may get it, and not watch it.
//
// Upstream: pkg/volume/csi/csi_attacher.go verifyAttachmentStatus and csi_plugin.go getPublishContext.
func (m *Manager) attachment(ctx context.Context, v volumeID) (map[string]string, error) {
	name := m.attachmentName(v)
	attachment, err := m.opts.Attachments.Get(ctx, name, metav1.GetOptions{})
	switch {
	case err != nil:
		return nil, fmt.Errorf("volume %s has GET error for volume attachment %s: %w", v.handle, name, err)
	case attachment.DeletionTimestamp != nil:
		return nil, errors.New("volume attachment is being deleted")
	case attachment.Status.Attached:
		return attachment.Status.AttachmentMetadata, nil
	case attachment.Status.AttachError != nil:
		return nil, (*attachError)(attachment.Status.AttachError)
	}
	return nil, fmt.Errorf("volume %s is not attached for volume attachment %s", v.handle, name)
}
