package csi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// driver is a registered driver.
type driver struct {
	endpoint string // path of its socket
	version  *version.Version
	info     *csiapi.NodeGetInfoResponse // what it said of the node
}

// Validate checks a driver that wants to be registered.
//
// Upstream: pkg/volume/csi/csi_plugin.go ValidatePlugin.
func (m *Manager) Validate(name, endpoint string, versions []string) error {
	_, err := m.highestVersion(name, endpoint, versions)
	return err
}

// highestVersion returns the newest version of CSI that a driver speaks and we do: 1.x. A second driver of a name must
// be newer than the first.
//
// Upstream: pkg/volume/csi/csi_plugin.go validateVersions.
func (m *Manager) highestVersion(name, endpoint string, versions []string) (*version.Version, error) {
	if len(versions) == 0 {
		return nil, fmt.Errorf("CSI driver %q returned an empty list for supported versions", name)
	}
	var highest *version.Version
	for _, text := range versions {
		v, err := version.ParseGeneric(text)
		if err == nil && v.Major() == 1 && (highest == nil || highest.LessThan(v)) {
			highest = v
		}
	}
	if highest == nil {
		return nil, fmt.Errorf("none of the versions that CSI driver %q specified are supported: %q", name, versions)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if other, exists := m.drivers[name]; exists && other.endpoint != endpoint && !other.version.LessThan(highest) {
		return nil, fmt.Errorf("another driver with the name %q is already registered with a higher supported version: %q", name, other.version)
	}
	return highest, nil
}

// Register takes a driver and tells the cluster of it.
//
// Upstream: pkg/volume/csi/csi_plugin.go RegisterPlugin.
func (m *Manager) Register(ctx context.Context, name, endpoint string, versions []string) error {
	highest, err := m.highestVersion(name, endpoint, versions)
	if err != nil {
		return err
	}
	info, err := nodeInfo(ctx, endpoint)
	if err != nil {
		return err
	}
	if err := m.install(ctx, name, info); err != nil {
		return err
	}
	m.mu.Lock()
	m.drivers[name] = driver{endpoint: endpoint, version: highest, info: info}
	m.mu.Unlock()
	if _, err := m.objects.Read(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "How often the CSI driver wants to be asked is not known yet", "driver", name)
	}
	m.schedule(name)
	return nil
}

// Deregister forgets a driver and has the cluster do so.
//
// Upstream: pkg/volume/csi/csi_plugin.go DeRegisterPlugin.
func (m *Manager) Deregister(ctx context.Context, name, endpoint string) {
	m.mu.Lock()
	if m.drivers[name].endpoint != endpoint {
		m.mu.Unlock()
		return // another one took its place
	}
	delete(m.drivers, name)
	m.mu.Unlock()
	m.schedule(name)
	if err := m.uninstall(ctx, name); err != nil {
		klog.FromContext(ctx).Error(err, "Telling the cluster that a CSI driver is gone failed", "driver", name)
	}
}

// nodeInfo is what the driver at a socket tells of the node.
func nodeInfo(ctx context.Context, endpoint string) (*csiapi.NodeGetInfoResponse, error) {
	conn, err := connect(endpoint)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	info, err := conn.info(ctx)
	if err == nil && info.GetNodeId() == "" {
		err = errors.New("error adding CSI driver node info: driverNodeID must not be empty")
	}
	return info, err
}

// open connects to a registered driver.
func (m *Manager) open(name string) (*connection, error) {
	endpoint, err := m.endpoint(name)
	if err != nil {
		return nil, err
	}
	return connect(endpoint)
}

// endpoint is the socket of a driver.
func (m *Manager) endpoint(name string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.drivers[name]
	if !ok {
		return "", fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
	}
	return d.endpoint, nil
}

// object returns what the cluster knows of a driver, nil for nothing.
//
// Upstream: pkg/volume/csi/csi_plugin.go getCSIDriver.
func (m *Manager) object(ctx context.Context, driver string) (*storagev1.CSIDriver, error) {
	store, err := m.objects.Read(ctx)
	if err != nil {
		return nil, err
	}
	return objectIn(store, driver), nil
}

func objectIn(store cache.Store, driver string) *storagev1.CSIDriver {
	object, _, _ := store.GetByKey(driver) // a store in memory finds it, or has none
	found, _ := object.(*storagev1.CSIDriver)
	return found
}

func sorted[T cmp.Ordered](list []T) []T {
	slices.Sort(list)
	return list
}

func isTrue(b *bool) bool { return b != nil && *b }

// attachRequired tells whether a controller attaches the driver's volumes to nodes. A driver that the cluster does not
// know might need it.
//
// Upstream: pkg/volume/csi/csi_plugin.go skipAttach.
func attachRequired(d *storagev1.CSIDriver) bool {
	return d == nil || d.Spec.AttachRequired == nil || *d.Spec.AttachRequired
}
