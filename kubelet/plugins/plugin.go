package plugins

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/klog/v2"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// plugin is one socket in the directory.
type plugin struct {
	socket   string
	info     fs.FileInfo
	handlers map[string]Handler
	gone     chan struct{} // closed when the socket is
	done     chan struct{} // closed when run is over
}

const (
	callTimeout = 10 * time.Second
	firstRetry  = 500 * time.Millisecond
	lastRetry   = 2 * time.Minute
)

// run registers the plugin, again and again until it works, and deregisters it when its socket goes.
//
// Upstream: pkg/kubelet/pluginmanager/reconciler/reconciler.go reconcile.
func (p *plugin) run(ctx context.Context) {
	defer close(p.done)
	log := klog.FromContext(ctx).WithValues("socket", p.socket)
	var info *registerapi.PluginInfo
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		var err error
		if info, err = p.registerUnlessGone(ctx); err == nil {
			break
		}
		if ctx.Err() == nil {
			log.Error(err, "Registering a plugin failed, will be retried", "after", retry)
		}
		timer := time.NewTimer(retry)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-p.gone:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
	log.Info("Registered a plugin", "type", info.GetType(), "name", info.GetName(), "endpoint", info.GetEndpoint())
	select {
	case <-ctx.Done():
	case <-p.gone:
		log.Info("A plugin is gone", "type", info.GetType(), "name", info.GetName())
		p.handlers[info.GetType()].Deregister(ctx, info.GetName(), info.GetEndpoint())
	}
}

// registerUnlessGone is register, ended early when the socket goes. It takes back what the plugin could not be told,
// unless that is because the kubelet ends.
func (p *plugin) registerUnlessGone(ctx context.Context) (*registerapi.PluginInfo, error) {
	calls, cancel := context.WithCancel(ctx)
	defer cancel()
	over := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-p.gone:
			cancel()
		case <-over:
		}
	}()
	info, err := p.register(calls)
	close(over)
	<-watched
	if err != nil && info != nil && ctx.Err() == nil {
		p.handlers[info.GetType()].Deregister(ctx, info.GetName(), info.GetEndpoint())
	}
	return info, err
}

// register asks the plugin what it is, has its type's handler take it, and tells it how that went. An error with the
// plugin's info means that it was taken and then could not be told so.
func (p *plugin) register(ctx context.Context) (*registerapi.PluginInfo, error) {
	conn, err := dial(p.socket)
	if err != nil {
		return nil, err
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

func dial(socket string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///plugin", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to the plugin: %w", err)
	}
	return conn, nil
}
