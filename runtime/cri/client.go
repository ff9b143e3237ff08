// Package cri connects to the container runtime, with one interceptor for deadlines, metrics and trace spans, and has the types in
// which all other packages see what the runtime says of pods.
package cri

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	maxMessageSize  = 16 << 20        // bytes of one answer, as upstream
	defaultTimeout  = 2 * time.Minute // runtimeRequestTimeout
	maxReconnect    = time.Second     // longest wait before the socket is tried again
	connectDeadline = 5 * time.Second // for one try; a socket that accepts and then says nothing fails it
)

// Options says where the runtime is. Endpoint is required.
type Options struct {
	Endpoint      string                // unix:///path of the socket
	ImageEndpoint string                // Endpoint by default
	Timeout       time.Duration         // of one call, 2 min by default; see Dial for the exceptions
	Registerer    prometheus.Registerer // may be nil
	First         []grpc.DialOption     // what each call passes through before its deadline begins
	Calls         []grpc.DialOption     // what else each call passes through
}

// Client is a connection to a container runtime. It is safe for concurrent use.
type Client struct {
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	conns   []*grpc.ClientConn
}

// Dial returns a client that connects when it is first used, so the socket need not exist yet. While the runtime is
// away calls fail at once, with the code Unavailable, and the first one after it came back succeeds, at most a second later.
//
// Every call has Options.Timeout, or the caller's own deadline if that is sooner. RunPodSandbox and StopPodSandbox
// have twice as much, StopContainer and CheckpointContainer the timeout in their request on top, ExecSync too and no
// limit without one; PullImage and GetContainerEvents have none.
//
// Upstream: staging/src/k8s.io/cri-client/pkg/remote_runtime.go NewRemoteRuntimeService
func Dial(options Options) (*Client, error) {
	caller := newCaller(cmp.Or(options.Timeout, defaultTimeout), options.Registerer)
	runtimeConn, err := connect(options.Endpoint, caller, options)
	if err != nil {
		return nil, err
	}
	client := &Client{
		Runtime: runtimeapi.NewRuntimeServiceClient(runtimeConn),
		Images:  runtimeapi.NewImageServiceClient(runtimeConn),
		conns:   []*grpc.ClientConn{runtimeConn},
	}
	if options.ImageEndpoint != "" && options.ImageEndpoint != options.Endpoint {
		imageConn, err := connect(options.ImageEndpoint, caller, options)
		if err != nil {
			return nil, errors.Join(err, client.Close())
		}
		client.Images = runtimeapi.NewImageServiceClient(imageConn)
		client.conns = append(client.conns, imageConn)
	}
	return client, nil
}

func connect(endpoint string, caller *caller, options Options) (*grpc.ClientConn, error) {
	parsed, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("parse container runtime endpoint %q: %w", endpoint, err)
	}
	if parsed.Scheme != "unix" || parsed.Host != "" || !filepath.IsAbs(parsed.Path) {
		return nil, fmt.Errorf("container runtime endpoint %q: want unix:///path/of/the.sock", endpoint)
	}
	reconnect := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnect}
	conn, err := grpc.NewClient("unix://"+parsed.Path, slices.Concat(options.First, []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageSize)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: connectDeadline}),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithChainUnaryInterceptor(caller.unary),
		grpc.WithChainStreamInterceptor(caller.stream),
	}, options.Calls)...)
	if err != nil {
		return nil, fmt.Errorf("connect to container runtime %q: %w", endpoint, err)
	}
	return conn, nil
}

// Close ends the connections; calls in flight fail.
func (c *Client) Close() error {
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// IsNotFound reports that the sandbox, container or image of a call does not exist.
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }

// IsUnimplemented reports that the runtime does not have the call.
func IsUnimplemented(err error) bool { return status.Code(err) == codes.Unimplemented }

// IsUnavailable reports that the runtime is away.
func IsUnavailable(err error) bool { return status.Code(err) == codes.Unavailable }
