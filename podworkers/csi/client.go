package csi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
)

// connection is a short-lived connection to a driver: drivers come and go, and one that is kept would wait long before
// it is tried again.
type connection struct {
	csiapi.NodeClient
	conn *grpc.ClientConn
}

func connect(endpoint string) (*connection, error) {
	conn, err := grpc.NewClient("passthrough:///csi", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", endpoint)
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to the CSI driver at %s: %w", endpoint, err)
	}
	return &connection{csiapi.NewNodeClient(conn), conn}, nil
}

// Close ends the connection.
func (c *connection) Close() { _ = c.conn.Close() }

func (c *connection) info(ctx context.Context) (*csiapi.NodeGetInfoResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := c.NodeGetInfo(ctx, &csiapi.NodeGetInfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the CSI driver for its node: %w", err)
	}
	return info, nil
}

// unpublish takes a volume from a pod.
func (c *connection) unpublish(ctx context.Context, v volumeID, target string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := c.NodeUnpublishVolume(ctx, &csiapi.NodeUnpublishVolumeRequest{VolumeId: v.handle, TargetPath: target}); err != nil {
		return fmt.Errorf("take volume %s of driver %s from the pod: %w", v.handle, v.driver, err)
	}
	return nil
}

// unstage takes a volume off the node.
func (c *connection) unstage(ctx context.Context, v volumeID, staging string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := c.NodeUnstageVolume(ctx, &csiapi.NodeUnstageVolumeRequest{VolumeId: v.handle, StagingTargetPath: staging}); err != nil {
		return fmt.Errorf("take volume %s of driver %s off the node: %w", v.handle, v.driver, err)
	}
	return nil
}

// capabilities are what a driver says that it can.
type capabilities map[csiapi.NodeServiceCapability_RPC_Type]bool

// Upstream: pkg/volume/csi/csi_client.go nodeSupportsCapability.
func (c *connection) capabilities(ctx context.Context) (capabilities, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := c.NodeGetCapabilities(ctx, &csiapi.NodeGetCapabilitiesRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the CSI driver for its capabilities: %w", err)
	}
	can := capabilities{}
	for _, one := range answer.GetCapabilities() {
		can[one.GetRpc().GetType()] = true
	}
	return can, nil
}

// dial connects to a registered driver and asks what it can. The caller closes the connection.
func (m *Manager) dial(ctx context.Context, driver string) (*connection, capabilities, error) {
	conn, err := m.open(driver)
	if err != nil {
		return nil, nil, err
	}
	can, err := conn.capabilities(ctx)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, can, nil
}

func (c capabilities) stage() bool {
	return c[csiapi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME]
}

func (c capabilities) expand() bool {
	return c[csiapi.NodeServiceCapability_RPC_EXPAND_VOLUME]
}

func (c capabilities) mountGroup() bool {
	return c[csiapi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP]
}

// accessMode is CSI's word for how a volume is used. Drivers that do not know of several writers on one node get the
// older, coarser words.
//
// Upstream: pkg/volume/csi/csi_client.go asCSIAccessModeV1 and asSingleNodeMultiWriterCapableCSIAccessModeV1.
func (c capabilities) accessMode(mode corev1.PersistentVolumeAccessMode) csiapi.VolumeCapability_AccessMode_Mode {
	finer := c[csiapi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER]
	switch mode {
	case corev1.ReadWriteOnce:
		if finer {
			return csiapi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
		}
		return csiapi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	case corev1.ReadWriteOncePod:
		if finer {
			return csiapi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
		}
		return csiapi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	case corev1.ReadOnlyMany:
		return csiapi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case corev1.ReadWriteMany:
		return csiapi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	}
	return csiapi.VolumeCapability_AccessMode_UNKNOWN
}

// capability is how the volume is to be used.
func (c capabilities) capability(r *Request) *csiapi.VolumeCapability {
	mode := &csiapi.VolumeCapability_AccessMode{Mode: c.accessMode(r.AccessMode)}
	if r.Block {
		return &csiapi.VolumeCapability{AccessType: &csiapi.VolumeCapability_Block{Block: &csiapi.VolumeCapability_BlockVolume{}}, AccessMode: mode}
	}
	mount := &csiapi.VolumeCapability_MountVolume{FsType: r.FSType, MountFlags: r.MountOptions}
	if c.mountGroup() && r.FSGroup != nil {
		mount.VolumeMountGroup = strconv.FormatInt(*r.FSGroup, 10)
	}
	return &csiapi.VolumeCapability{
		AccessType: &csiapi.VolumeCapability_Mount{Mount: mount},
		AccessMode: mode,
	}
}

// isFinal tells whether an error means that the driver does nothing more to the volume. After others it may still be
// mounted, by the driver that goes on working.
//
// Upstream: pkg/volume/csi/csi_client.go isFinalError.
func isFinal(err error) bool {
	var answer interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.GRPCStatus().Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted:
		return false
	}
	return true
}
