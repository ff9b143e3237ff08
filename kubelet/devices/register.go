package devices

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// serve takes registrations on the socket. Sockets that are there already belong to plugins of the time before: they hear
// from the removal that they must register again.
//
// Upstream: pkg/kubelet/cm/devicemanager/plugin/v1beta1/server.go Start.
func (m *Manager) serve(ctx context.Context) error {
	if err := os.MkdirAll(m.opts.Dir, 0o750); err != nil {
		return err
	}
	entries, err := os.ReadDir(m.opts.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSocket != 0 {
			if err := os.Remove(filepath.Join(m.opts.Dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", filepath.Join(m.opts.Dir, filepath.Base(pluginapi.KubeletSocket)))
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	pluginapi.RegisterRegistrationServer(server, &registration{m: m})
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	return server.Serve(listener)
}

// registration is the service on which plugins register themselves.
type registration struct {
	pluginapi.UnimplementedRegistrationServer
	m *Manager
}

// Register takes a plugin.
//
// Upstream: pkg/kubelet/cm/devicemanager/plugin/v1beta1/server.go Register.
func (s *registration) Register(ctx context.Context, r *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	name, log := r.GetResourceName(), klog.Background()
	err := checkName(name)
	if !slices.Contains(pluginapi.SupportedVersions[:], r.GetVersion()) {
		err = fmt.Errorf("requested API version %q is not supported by kubelet. Supported version is %q", r.GetVersion(), pluginapi.SupportedVersions)
	}
	if err == nil {
		s.m.registrations.WithLabelValues(name).Inc()
		err = s.m.connect(ctx, name, filepath.Join(s.m.opts.Dir, r.GetEndpoint()))
	}
	if err != nil {
		log.Error(err, "A device plugin could not be registered", "resource", name, "endpoint", r.GetEndpoint())
		return nil, err
	}
	return &pluginapi.Empty{}, nil
}

// checkName tells whether a resource may be a plugin's.
//
// Upstream: pkg/apis/core/v1/helper/helpers.go IsExtendedResourceName.
func checkName(name string) error {
	native := !strings.Contains(name, "/") || strings.Contains(name, corev1.ResourceDefaultNamespacePrefix)
	if native || strings.HasPrefix(name, corev1.DefaultResourceRequestsPrefix) || len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+name)) > 0 {
		return fmt.Errorf("the ResourceName %q is invalid", name)
	}
	return nil
}

// Validate is asked by the watcher of plugins (plugins.Handler).
//
// Upstream: pkg/kubelet/cm/devicemanager/plugin/v1beta1/handler.go ValidatePlugin.
func (m *Manager) Validate(name, _ string, versions []string) error {
	if !slices.ContainsFunc(versions, func(v string) bool { return slices.Contains(pluginapi.SupportedVersions[:], v) }) {
		return fmt.Errorf("manager version, %s, is not among plugin supported versions %v", pluginapi.Version, versions)
	}
	if err := checkName(name); err != nil {
		return fmt.Errorf("invalid name of device plugin socket: %w", err)
	}
	return nil
}

// Register takes a plugin that the watcher of plugins found.
func (m *Manager) Register(ctx context.Context, name, endpoint string, _ []string) error {
	return m.connect(ctx, name, endpoint)
}

// Deregister is told that the socket of such a plugin is gone.
func (m *Manager) Deregister(ctx context.Context, name, endpoint string) {
	m.mu.Lock()
	var p *plugin
	if r := m.resources[name]; r != nil {
		p = r.plugins[endpoint]
	}
	m.mu.Unlock()
	if p != nil {
		p.hangUp()
		m.disconnected(ctx, p, errors.New("its socket is gone"))
	}
}
