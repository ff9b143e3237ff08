package kubelet

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"minikubelet/runtime/criserver"
)

// embedded is the CRI server in the kubelet's own process. The kubelet calls it over its socket as any other runtime,
// and it outlives the kubelet's parts, so that they end as they would with any other. Containers outlive both. All
// methods do nothing on nil.
type embedded struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done is closed
}

// startEmbedded takes over the containers of the kubelet before, and serves the CRI at the address.
func startEmbedded(ctx context.Context, o criserver.Options, address string) (*embedded, error) {
	// Users of containers read resolv.conf and hostname, whatever umask the kubelet was started with.
	syscall.Umask(0o022)
	listener, release, err := criserver.Listen(address)
	if err != nil {
		return nil, fmt.Errorf("start the embedded runtime: %w", err)
	}
	server, err := criserver.New(ctx, o)
	if err != nil {
		release()
		return nil, fmt.Errorf("start the embedded runtime: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e := &embedded{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		defer release()
		e.err = server.Serve(ctx, listener)
	}()
	return e, nil
}

var errEmbeddedEnded = errors.New("the embedded runtime has ended")

// onEnd calls fn when the server ends, which it should not do by itself.
func (e *embedded) onEnd(fn func(error)) {
	if e == nil {
		return
	}
	go func() {
		<-e.done
		fn(errors.Join(errEmbeddedEnded, e.err))
	}()
}

// stop ends the server and waits for what it is doing.
func (e *embedded) stop() error {
	if e == nil {
		return nil
	}
	e.cancel()
	<-e.done
	return e.err
}
