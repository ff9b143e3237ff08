// Package devicestest has a device plugin for tests, which speaks the published API and knows nothing of the kubelet.
package devicestest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Plugin is a device plugin. Its exported fields must not change once it serves.
type Plugin struct {
	pluginapi.UnimplementedDevicePluginServer
	registerapi.UnimplementedRegistrationServer

	Resource string
	Options  pluginapi.DevicePluginOptions
	// Respond answers Allocate; nil for an answer that asks for nothing.
	Respond func(ids []string) *pluginapi.ContainerAllocateResponse
	// Prefer answers GetPreferredAllocation.
	Prefer func(available, must []string, size int) []string
	// Heard is told of each call, as "Allocate a,b"; may be nil.
	Heard func(call string)

	mu      sync.Mutex
	devices map[string]*pluginapi.Device
	fail    map[string]error
	changed chan struct{} // closed, and replaced, at each change
}

// Set makes devices known, or changes their health.
func (p *Plugin) Set(devices ...*pluginapi.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.devices == nil {
		p.devices = map[string]*pluginapi.Device{}
	}
	for _, d := range devices {
		p.devices[d.GetID()] = d
	}
	p.wake()
}

// Fail has calls of a method fail from now on, ListAndWatch the one under way, or work again for nil.
func (p *Plugin) Fail(method string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail == nil {
		p.fail = map[string]error{}
	}
	p.fail[method] = err
	p.wake()
}

func (p *Plugin) wake() {
	if p.changed != nil {
		close(p.changed)
	}
	p.changed = make(chan struct{})
}

func (p *Plugin) called(method string, ids ...string) error {
	p.mu.Lock()
	err := p.fail[method]
	p.mu.Unlock()
	if p.Heard != nil {
		p.Heard(strings.TrimSpace(method + " " + strings.Join(ids, ",")))
	}
	return err
}

// Serve serves the plugin at a socket until stop is called, which removes the socket.
func (p *Plugin) Serve(socket string) (stop func(), err error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(server, p)
	registerapi.RegisterRegistrationServer(server, p)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	return func() { server.Stop(); <-done }, nil
}

// Register tells the kubelet whose socket is in dir of the plugin, which serves in the same directory.
func (p *Plugin) Register(ctx context.Context, dir, endpoint string) error {
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, filepath.Base(pluginapi.KubeletSocket)), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = pluginapi.NewRegistrationClient(conn).Register(ctx, &pluginapi.RegisterRequest{
		Version: pluginapi.Version, Endpoint: endpoint, ResourceName: p.Resource, Options: &p.Options,
	}, grpc.WaitForReady(true))
	return err
}

// GetInfo tells the watcher of plugins what the socket is.
func (p *Plugin) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.DevicePlugin, Name: p.Resource, SupportedVersions: []string{pluginapi.Version}}, nil
}

// NotifyRegistrationStatus hears how that went.
func (p *Plugin) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	return &registerapi.RegistrationStatusResponse{}, p.called("Registered", fmt.Sprint(s.GetPluginRegistered()))
}

// GetDevicePluginOptions tells which calls the plugin wants.
func (p *Plugin) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &p.Options, p.called("GetDevicePluginOptions")
}

// ListAndWatch tells of the devices, now and at each change.
func (p *Plugin) ListAndWatch(_ *pluginapi.Empty, stream grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	if err := p.called("ListAndWatch"); err != nil {
		return err
	}
	for {
		p.mu.Lock()
		list := &pluginapi.ListAndWatchResponse{}
		for _, id := range slices.Sorted(maps.Keys(p.devices)) {
			list.Devices = append(list.Devices, p.devices[id])
		}
		if p.changed == nil {
			p.wake()
		}
		changed, err := p.changed, p.fail["ListAndWatch"]
		p.mu.Unlock()
		if err == nil {
			err = stream.Send(list)
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// GetPreferredAllocation says which devices go well together.
func (p *Plugin) GetPreferredAllocation(_ context.Context, r *pluginapi.PreferredAllocationRequest) (*pluginapi.PreferredAllocationResponse, error) {
	response := &pluginapi.PreferredAllocationResponse{}
	for _, c := range r.GetContainerRequests() {
		if err := p.called("GetPreferredAllocation", c.GetAvailableDeviceIDs()...); err != nil {
			return nil, err
		}
		response.ContainerResponses = append(response.ContainerResponses, &pluginapi.ContainerPreferredAllocationResponse{
			DeviceIDs: p.Prefer(c.GetAvailableDeviceIDs(), c.GetMustIncludeDeviceIDs(), int(c.GetAllocationSize())),
		})
	}
	return response, nil
}

// Allocate says what containers need that get devices.
func (p *Plugin) Allocate(_ context.Context, r *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	response := &pluginapi.AllocateResponse{}
	for _, c := range r.GetContainerRequests() {
		if err := p.called("Allocate", c.GetDevicesIds()...); err != nil {
			return nil, err
		}
		answer := &pluginapi.ContainerAllocateResponse{}
		if p.Respond != nil {
			answer = p.Respond(c.GetDevicesIds())
		}
		response.ContainerResponses = append(response.ContainerResponses, answer)
	}
	return response, nil
}

// PreStartContainer hears that a container is about to be created.
func (p *Plugin) PreStartContainer(_ context.Context, r *pluginapi.PreStartContainerRequest) (*pluginapi.PreStartContainerResponse, error) {
	return &pluginapi.PreStartContainerResponse{}, p.called("PreStartContainer", r.GetDevicesIds()...)
}
