// Package csitest has a CSI driver for tests, whose volumes are directories of the machine. It mounts for real, so it
// needs root.
package csitest

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Driver is a driver. Its exported fields must not change once it serves, but through methods.
type Driver struct {
	csiapi.UnimplementedNodeServer
	registerapi.UnimplementedRegistrationServer

	Name, NodeID string
	// Dir holds the volumes' directories, by handle.
	Dir string
	// Device is the path of the device that all block volumes are.
	Device       string
	Capabilities []csiapi.NodeServiceCapability_RPC_Type
	Topology     map[string]string
	MaxVolumes   int64
	// Abnormal is what statistics of volumes say of their health.
	Abnormal bool

	mu       sync.Mutex
	calls    []string
	requests []any
	fail     map[string]error
	hold     <-chan struct{} // what NodePublishVolume waits for
	endpoint string
}

// Fail has calls of a method fail from now on, or work again for nil.
func (d *Driver) Fail(method string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		d.fail = map[string]error{}
	}
	d.fail[method] = err
}

// HoldPublish has calls of NodePublishVolume wait until a channel is closed or their client has gone; with nil they do not.
func (d *Driver) HoldPublish(until <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hold = until
}

// SetMaxVolumes changes how many volumes the node takes.
func (d *Driver) SetMaxVolumes(most int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.MaxVolumes = most
}

// Calls returns the calls so far that did something to volumes, as "Stage HANDLE".
func (d *Driver) Calls() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// Requests returns the requests so far of one type.
func Requests[T any](d *Driver) []T {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []T
	for _, r := range d.requests {
		if r, ok := r.(T); ok {
			out = append(out, r)
		}
	}
	return out
}

func (d *Driver) record(method, handle string, request any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, method+" "+handle)
	d.requests = append(d.requests, request)
	return d.fail[method]
}

// Serve serves the driver at a socket until stop is called.
func (d *Driver) Serve(socket string) (stop func(), err error) {
	d.mu.Lock()
	d.endpoint = socket
	d.mu.Unlock()
	return serve(socket, func(s *grpc.Server) { csiapi.RegisterNodeServer(s, d) })
}

// Announce has a kubelet find the driver, which serves already, by a socket in its plugins_registry.
func (d *Driver) Announce(registry string) (stop func(), err error) {
	return serve(filepath.Join(registry, d.Name+"-reg.sock"), func(s *grpc.Server) { registerapi.RegisterRegistrationServer(s, d) })
}

func serve(socket string, register func(*grpc.Server)) (stop func(), err error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	register(server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	return func() { server.Stop(); <-done }, nil
}

// GetInfo tells a kubelet what the driver is.
func (d *Driver) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &registerapi.PluginInfo{Type: registerapi.CSIPlugin, Name: d.Name, Endpoint: d.endpoint, SupportedVersions: []string{"1.0.0"}}, nil
}

// NotifyRegistrationStatus is told how the registration went.
func (d *Driver) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.requests = append(d.requests, s)
	return &registerapi.RegistrationStatusResponse{}, nil
}

// NodeGetInfo tells of the node.
func (d *Driver) NodeGetInfo(context.Context, *csiapi.NodeGetInfoRequest) (*csiapi.NodeGetInfoResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	answer := &csiapi.NodeGetInfoResponse{NodeId: d.NodeID, MaxVolumesPerNode: d.MaxVolumes}
	if len(d.Topology) > 0 {
		answer.AccessibleTopology = &csiapi.Topology{Segments: d.Topology}
	}
	return answer, nil
}

// NodeGetCapabilities tells what the driver can.
func (d *Driver) NodeGetCapabilities(context.Context, *csiapi.NodeGetCapabilitiesRequest) (*csiapi.NodeGetCapabilitiesResponse, error) {
	answer := &csiapi.NodeGetCapabilitiesResponse{}
	for _, one := range d.Capabilities {
		answer.Capabilities = append(answer.Capabilities, &csiapi.NodeServiceCapability{
			Type: &csiapi.NodeServiceCapability_Rpc{Rpc: &csiapi.NodeServiceCapability_RPC{Type: one}},
		})
	}
	return answer, nil
}

// NodeStageVolume mounts a volume's directory on the staging path.
func (d *Driver) NodeStageVolume(_ context.Context, r *csiapi.NodeStageVolumeRequest) (*csiapi.NodeStageVolumeResponse, error) {
	if err := d.record("Stage", r.GetVolumeId(), r); err != nil {
		return nil, err
	}
	if r.GetVolumeCapability().GetBlock() != nil {
		return &csiapi.NodeStageVolumeResponse{}, nil
	}
	return &csiapi.NodeStageVolumeResponse{}, d.mount(d.data(r.GetVolumeId()), r.GetStagingTargetPath(), false)
}

// NodePublishVolume mounts the staged volume, or else its directory, on the target path.
func (d *Driver) NodePublishVolume(ctx context.Context, r *csiapi.NodePublishVolumeRequest) (*csiapi.NodePublishVolumeResponse, error) {
	if err := d.record("Publish", r.GetVolumeId(), r); err != nil {
		return nil, err
	}
	d.mu.Lock()
	hold := d.hold
	d.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	if r.GetVolumeCapability().GetBlock() != nil {
		return &csiapi.NodePublishVolumeResponse{}, d.bindDevice(r.GetTargetPath())
	}
	source := r.GetStagingTargetPath()
	if source == "" {
		source = d.data(r.GetVolumeId())
	}
	return &csiapi.NodePublishVolumeResponse{}, d.mount(source, r.GetTargetPath(), r.GetReadonly())
}

// NodeUnpublishVolume undoes NodePublishVolume.
func (d *Driver) NodeUnpublishVolume(_ context.Context, r *csiapi.NodeUnpublishVolumeRequest) (*csiapi.NodeUnpublishVolumeResponse, error) {
	if err := d.record("Unpublish", r.GetVolumeId(), r); err != nil {
		return nil, err
	}
	return &csiapi.NodeUnpublishVolumeResponse{}, unmount(r.GetTargetPath())
}

// NodeUnstageVolume undoes NodeStageVolume.
func (d *Driver) NodeUnstageVolume(_ context.Context, r *csiapi.NodeUnstageVolumeRequest) (*csiapi.NodeUnstageVolumeResponse, error) {
	if err := d.record("Unstage", r.GetVolumeId(), r); err != nil {
		return nil, err
	}
	return &csiapi.NodeUnstageVolumeResponse{}, unmount(r.GetStagingTargetPath())
}

func (d *Driver) data(handle string) string {
	return filepath.Join(d.Dir, strings.ReplaceAll(handle, "/", "~"))
}

func (d *Driver) mount(source, target string, readOnly bool) error {
	for _, dir := range []string{source, target} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
	}
	mounted, err := mountinfo.Mounted(target)
	if err == nil && !mounted {
		err = unix.Mount(source, target, "", unix.MS_BIND, "")
	}
	if err == nil && readOnly {
		err = unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

func unmount(target string) error {
	mounted, err := mountinfo.Mounted(target)
	if err == nil && mounted {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	}
	if err == nil {
		err = os.Remove(target)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

// NodeExpandVolume notes that a volume is to grow. A directory has no size of its own.
func (d *Driver) NodeExpandVolume(_ context.Context, r *csiapi.NodeExpandVolumeRequest) (*csiapi.NodeExpandVolumeResponse, error) {
	if err := d.record("Expand", r.GetVolumeId(), r); err != nil {
		return nil, err
	}
	return &csiapi.NodeExpandVolumeResponse{CapacityBytes: r.GetCapacityRange().GetRequiredBytes()}, nil
}

// NodeGetVolumeStats tells that a volume holds 1000 bytes of which 300 are used, and that it is well unless Abnormal is set.
func (d *Driver) NodeGetVolumeStats(_ context.Context, r *csiapi.NodeGetVolumeStatsRequest) (*csiapi.NodeGetVolumeStatsResponse, error) {
	d.mu.Lock()
	err := d.fail["Stats"]
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(r.GetVolumePath()); err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	return &csiapi.NodeGetVolumeStatsResponse{
		Usage: []*csiapi.VolumeUsage{
			{Unit: csiapi.VolumeUsage_BYTES, Total: 1000, Used: 300, Available: 700},
			{Unit: csiapi.VolumeUsage_INODES, Total: 10, Used: 3, Available: 7},
		},
		VolumeCondition: &csiapi.VolumeCondition{Abnormal: d.Abnormal, Message: "as the test wants"},
	}, nil
}
