package kubelet

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"minikubelet/kubelet/client"
)

// events is a queue of events with its recorder. Similar ones are counted together, as by every client of client-go's.
//
// Upstream: cmd/kubelet/app/server.go makeEventRecorder.
type events struct {
	record.EventRecorder
	queue record.EventBroadcaster
}

func newEvents(nodeName string) *events {
	queue := record.NewBroadcaster()
	return &events{queue.NewRecorder(client.Scheme, corev1.EventSource{Component: "kubelet", Host: nodeName}), queue}
}

// start logs events, and sends them to the apiserver, nil for none, until ctx ends.
func (e *events) start(ctx context.Context, to *client.Client) {
	e.queue.StartStructuredLogging(3)
	if to != nil {
		e.queue.StartRecordingToSink(to.EventSink(ctx))
	}
	context.AfterFunc(ctx, e.queue.Shutdown)
}
