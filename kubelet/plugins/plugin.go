package plugins

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// plugin is one socket in the directory.
type plugin struct {
	socket   string
	info     fs.FileInfo
	handlers map[string]Handler
	gone     context.CancelFunc // ends the context that lasts as long as the socket
	done     chan struct{}      // closed when run is over
}

const (
	callTimeout = 10 * time.Second
	firstRetry  = 500 * time.Millisecond
	lastRetry   = 2 * time.Minute
)

// run registers the plugin, again and again until it works, and deregisters it when its socket goes, with which here ends.
// That the kubelet ends, and ctx, deregisters nothing.
//
// Upstream: pkg/kubelet/pluginmanager/reconciler/reconciler.go reconcile.
func (p *plugin) run(ctx, here context.Context) {
	defer close(p.done)
	log := klog.FromContext(ctx).WithValues("socket", p.socket)
	retry := wait.Backoff{Duration: firstRetry, Factor: 2, Steps: math.MaxInt32, Cap: lastRetry}
	for {
		info, err := p.register(here)
		if err == nil {
			log.Info("Registered a plugin", "type", info.GetType(), "name", info.GetName(), "endpoint", info.GetEndpoint())
			<-here.Done()
			p.deregister(ctx, info)
			return
		}
		if info != nil { // it was taken, and could not be told so
			p.deregister(ctx, info)
		}
		delay := retry.Step()
		if here.Err() == nil {
			log.Error(err, "Registering a plugin failed, will be retried", "after", delay)
		}
		select {
		case <-here.Done():
			return
		case <-time.After(delay):
		}
	}
}

// deregister tells the plugin's handler that it is gone, unless it is the kubelet that ends.
func (p *plugin) deregister(ctx context.Context, info *registerapi.PluginInfo) {
	if ctx.Err() == nil {
		klog.FromContext(ctx).Info("A plugin is gone", "socket", p.socket, "type", info.GetType(), "name", info.GetName())
		p.handlers[info.GetType()].Deregister(ctx, info.GetName(), info.GetEndpoint())
	}
}

// register asks the plugin what it is, has its type's handler take it, and tells it how that went. An error with the
// plugin's info means that it was taken and then could not be told so.
func (p *plugin) register(ctx context.Context) (*registerapi.PluginInfo, error) {
	conn, err := grpc.NewClient("passthrough:///plugin", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", p.socket)
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to the plugin: %w", err)
	}
	defer conn.Close()
	client := registerapi.NewRegistrationClient(conn)
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := client.GetInfo(limited, &registerapi.InfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the plugin what it is: %w", err)
	}
	if info.GetEndpoint() == "" {
		info.Endpoint = p.socket
	}
	taken := p.take(ctx, info)
	status := &registerapi.RegistrationStatus{PluginRegistered: taken == nil}
	if taken != nil {
		status.Error = taken.Error()
	}
	limited, cancel = context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = client.NotifyRegistrationStatus(limited, status)
	switch {
	case taken != nil:
		return nil, taken
	case err != nil:
		return info, fmt.Errorf("tell the plugin that it is registered: %w", err)
	}
	return info, nil
}

// take hands the plugin to its type's handler.
func (p *plugin) take(ctx context.Context, info *registerapi.PluginInfo) error {
	handler := p.handlers[info.GetType()]
	switch {
	case handler == nil:
		return fmt.Errorf("no handler registered for plugin type: %s at socket %s", info.GetType(), p.socket)
	case info.GetName() == "":
		return errors.New("the plugin has no name")
	}
	if err := handler.Validate(info.GetName(), info.GetEndpoint(), info.GetSupportedVersions()); err != nil {
		return fmt.Errorf("plugin validation failed with err: %w", err)
	}
	if err := handler.Register(ctx, info.GetName(), info.GetEndpoint(), info.GetSupportedVersions()); err != nil {
		return fmt.Errorf("plugin registration failed with err: %w", err)
	}
	return nil
}
