package devices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	connectTimeout = 10 * time.Second
	// allocateTimeout bounds what upstream's kubelet waits for without end. A plugin may have to program a device.
	allocateTimeout = 5 * time.Minute
	startTimeout    = pluginapi.KubeletPreStartContainerRPCTimeoutInSecs * time.Second
)

// plugin is a device plugin that is connected.
type plugin struct {
	resource, socket string
	api              pluginapi.DevicePluginClient
	options          *pluginapi.DevicePluginOptions
	hangUp           context.CancelFunc
}

// connect takes a plugin, asks for its options and begins to listen to its devices. One that was at its socket before is
// replaced.
//
// Upstream: pkg/kubelet/cm/devicemanager/plugin/v1beta1/handler.go connectClient.
func (m *Manager) connect(ctx context.Context, name, socket string) error {
	conn, err := grpc.NewClient("passthrough:///device-plugin", grpc.WithAuthority("localhost"), grpc.WithNoProxy(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return fmt.Errorf("failed to dial device plugin: %w", err)
	}
	p := &plugin{resource: name, socket: socket, api: pluginapi.NewDevicePluginClient(conn)}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if p.options, err = p.api.GetDevicePluginOptions(ctx, &pluginapi.Empty{}, grpc.WaitForReady(true)); err != nil {
		_ = conn.Close()
		return fmt.Errorf("failed to get device plugin options: %w", err)
	}
	var listen context.Context
	listen, p.hangUp = context.WithCancel(m.lifetime)
	m.mu.Lock()
	if err := m.lifetime.Err(); err != nil {
		m.mu.Unlock()
		return errors.Join(errors.New("the kubelet ends"), conn.Close())
	}
	r := m.resources[name]
	if r == nil {
		r = &deviceResource{plugins: map[string]*plugin{}}
		m.resources[name] = r
	}
	former := r.plugins[socket]
	r.plugins[socket], r.current, r.stopped = p, p, time.Time{}
	if former != nil {
		former.hangUp()
	}
	m.watching.Go(func() {
		defer conn.Close()
		if err := m.watch(listen, p); listen.Err() == nil {
			m.disconnected(listen, p, err)
		}
	})
	m.mu.Unlock()
	klog.FromContext(ctx).Info("Registered a device plugin", "resource", name, "socket", socket)
	m.saveNames()
	m.changed()
	return nil
}

// watch listens to a plugin until it ends. It is never tried again: a plugin that has more to say registers again.
//
// Upstream: pkg/kubelet/cm/devicemanager/plugin/v1beta1/client.go Run.
func (m *Manager) watch(ctx context.Context, p *plugin) error {
	stream, err := p.api.ListAndWatch(ctx, &pluginapi.Empty{})
	if err != nil {
		return err
	}
	for {
		list, err := stream.Recv()
		if err != nil {
			return err
		}
		changed, current := m.listed(p, list.GetDevices())
		if !current {
			return nil
		}
		klog.FromContext(ctx).V(2).Info("A device plugin told of its devices", "resource", p.resource, "devices", len(list.GetDevices()))
		m.changed()
		for _, uid := range changed {
			m.opts.HealthChanged(uid)
		}
	}
}

// listed takes over a plugin's list, and returns the pods that have devices whose health is another now, or that are back.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go genericDeviceUpdateCallback.
func (m *Manager) listed(p *plugin, devices []*pluginapi.Device) (changed []types.UID, current bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.resources[p.resource]
	if r.plugins[p.socket] != p {
		return nil, false
	}
	before := r.devices
	r.listed, r.devices = true, map[string]*pluginapi.Device{}
	other := map[string]bool{}
	for _, d := range devices {
		r.devices[d.GetID()] = d
		if old := before[d.GetID()]; old.GetHealth() != d.GetHealth() {
			other[d.GetID()] = true
		}
	}
	for uid, pod := range m.pods {
		for _, container := range pod {
			if g := container[p.resource]; g != nil && slices.ContainsFunc(g.IDs, func(id string) bool { return other[id] }) {
				changed = append(changed, uid)
				break
			}
		}
	}
	return changed, true
}

// disconnected notes that a plugin is gone. When it was the last, none of its devices can be had; what has some keeps them.
//
// Upstream: pkg/kubelet/cm/devicemanager/manager.go PluginDisconnected.
func (m *Manager) disconnected(ctx context.Context, p *plugin, why error) {
	m.mu.Lock()
	r := m.resources[p.resource]
	if r.plugins[p.socket] != p {
		m.mu.Unlock()
		return
	}
	delete(r.plugins, p.socket)
	if len(r.plugins) > 0 {
		r.current = r.plugins[slices.Min(slices.Collect(maps.Keys(r.plugins)))]
	} else {
		r.stopped, r.listed = time.Now(), false
		m.expire()
	}
	m.mu.Unlock()
	klog.FromContext(ctx).Error(why, "A device plugin is gone", "resource", p.resource, "socket", p.socket)
	m.changed()
}

// expire has the node and the record told, after a while, of resources whose last plugin is gone by then. Callers hold mu.
func (m *Manager) expire() {
	m.watching.Go(func() {
		timer := time.NewTimer(stopGracePeriod + time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
			m.saveNames()
			m.changed()
		case <-m.lifetime.Done():
		}
	})
}

// call makes a call to the plugin of a resource, unless it is gone.
func call[T any](ctx context.Context, m *Manager, name string, timeout time.Duration, do func(context.Context, *plugin) (T, error)) (T, error) {
	m.mu.Lock()
	var p *plugin
	if r := m.resources[name]; r != nil && r.stopped.IsZero() {
		p = r.current
	}
	m.mu.Unlock()
	if p == nil {
		var none T
		return none, fmt.Errorf("endpoint %s has been stopped", name)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return do(ctx, p)
}
