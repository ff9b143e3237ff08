package csi

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

// unread is after which time it is looked again at a driver's CSIDriver that could not be read.
const unread = 10 * time.Second

// period is how often a driver wants to be asked how many volumes the node takes, 0 for only when it registers.
func period(store cache.Store, driver string) time.Duration {
	d := objectIn(store, driver)
	if d == nil {
		return 0
	}
	return time.Duration(ptr.Deref(d.Spec.NodeAllocatableUpdatePeriodSeconds, 0)) * time.Second
}

// schedule has a registered driver asked again how many volumes the node takes, after the period that its CSIDriver says. It is called
// whenever one of the two may be another.
//
// Upstream: pkg/volume/csi/csi_node_updater.go syncDriverUpdater.
func (m *Manager) schedule(name string) {
	after, ask := unread, func() { m.schedule(name) }
	if store := m.objects.Known(); store != nil {
		after, ask = period(store, name), func() {
			if err := m.refresh(context.Background(), name); err != nil {
				klog.Background().Error(err, "Asking a CSI driver how many volumes the node takes failed, will be retried", "driver", name)
			}
			m.schedule(name)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.timers[name]; t != nil {
		t.Stop()
		delete(m.timers, name)
	}
	if _, registered := m.drivers[name]; registered && after > 0 && !m.ended {
		m.timers[name] = time.AfterFunc(after, ask)
	}
}

// stopTimers keeps drivers from being asked again.
func (m *Manager) stopTimers() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	for _, t := range m.timers {
		t.Stop()
	}
}

// refresh asks a driver how many volumes the node takes and writes that into the CSINode.
//
// Upstream: pkg/volume/csi/csi_plugin.go updateCSIDriver.
func (m *Manager) refresh(ctx context.Context, name string) error {
	endpoint, err := m.endpoint(name)
	if err != nil {
		return err
	}
	info, err := nodeInfo(ctx, endpoint)
	if err != nil {
		return err
	}
	return m.try(ctx, func(ctx context.Context) error {
		m.mu.Lock()
		_, registered := m.drivers[name]
		m.mu.Unlock()
		if !registered {
			return nil // its entry is gone, or goes when this is done
		}
		if err := m.enter(ctx, name, entry(name, info)); err != nil {
			return fmt.Errorf("error updating CSINode object with CSI driver node info: %w", err)
		}
		return nil
	})
}

// attachError is why a controller could not attach a volume.
type attachError storagev1.VolumeError

// Error implements error.
func (e *attachError) Error() string { return e.Message }

// exhausted tells whether a volume was not attached since the node takes no more of them. Then the CSINode was wrong and is put right.
// Drivers that are not asked again do not mean that with their error.
//
// Upstream: pkg/volume/csi/csi_plugin.go VerifyExhaustedResource.
func (m *Manager) exhausted(ctx context.Context, driver string, err *attachError) bool {
	store := m.objects.Known()
	if ptr.Deref(err.ErrorCode, 0) != int32(codes.ResourceExhausted) || store == nil || period(store, driver) == 0 {
		return false
	}
	if err := m.refresh(ctx, driver); err != nil {
		klog.FromContext(ctx).Error(err, "Asking a CSI driver how many volumes the node takes failed", "driver", driver)
	}
	return true
}
